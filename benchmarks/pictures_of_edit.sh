#!/bin/sh
# The pictures of docs/how-to/edit.md: sh benchmarks/pictures_of_edit.sh RUN NAME, for a run on the data set NAME.
set -eu
run=$1 name=$2 python=${PYTHON:-python}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
edit() {
    what=$1 && shift
    $python -m pipelines.edit --checkpoint "$run" --what "$what" --output "$folder/$what" "$@"
}
show() {
    cp "$folder/$1/${3:-$1}.png" "docs/images/edit-$name-$2.png"
}
case $name in digits) class=3 ;; *) class=ship ;; esac
edit reconstruct && show reconstruct reconstruct
edit interpolate --images 1 7 11 && show interpolate interpolate
$python -m pipelines.edit --checkpoint "$run" --what attributes
edit apply --attribute $class --images 0 1 2 3 --strengths '[0, 0.5, 1, 1.5]' && show apply apply
edit levels && show levels levels
edit inpaint --images 0 1 --num_draws 100 && show inpaint inpaint
edit neighbours --num_images 360 && show neighbours neighbours neighbours-pixels
