#!/usr/bin/env bash
# Submit prepare, train, sample and evaluate as one chain:
#   slurm/submit.sh CONFIG NAME [OPTIONS OF PREPARE]
#   slurm/submit.sh configs/imagenet64.yaml photos --source photos/ --size 64 --validation 0.05 --test 0.05
# CONFIG is a file, or the name of a configuration that comes with glow. The data set is data/NAME, the run runs/NAME.
# Without options of prepare, data/NAME has to be there.
# slurm/README.md lists the variables that say more to sbatch and to the stages.
set -euo pipefail -f   # -f: a list such as [0.7,1] is no pattern of file names
[[ $# -ge 2 ]] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
config=$1 data=data/$2 run=runs/$2
shift 2
here=$(dirname "${BASH_SOURCE[0]}")
[[ -f $config || $config != *[./]* ]] || { echo "error: $config: no such file" >&2; exit 1; }
[[ $# -gt 0 || -f $data/dataset.json ]] || { echo "error: $data/dataset.json is not there; give the options of prepare" >&2; exit 1; }

# Prints the id of the job: submit STAGE AFTER 'OPTIONS OF SBATCH' OPTIONS OF THE STAGE
submit() {
  local stage=$1 after=$2 options=$3 id
  shift 3
  [[ -z $after ]] || options="--dependency=afterok:$after --kill-on-invalid-dep=yes $options"
  # shellcheck disable=SC2086  # the options are words
  id=$(sbatch --parsable ${SBATCH_ALL:-} $options "$here/$stage.sbatch" "$@") || exit 1
  echo "${id%%;*}"
}

prepared=''
if [[ $# -gt 0 ]]; then
  prepared=$(submit prepare '' "${SBATCH_PREPARE:-}" "$@" --output "$data")
  echo "prepare $prepared"
fi
# shellcheck disable=SC2086
{
  trained=$(submit train "$prepared" "${SBATCH_TRAIN:-}" --config "$config" --data.path "$data" --output "$run" ${TRAIN_OPTIONS:-})
  echo "train $trained"
  sampled=$(submit sample "$trained" "--array=1-${SAMPLE_TASKS:-4} ${SBATCH_SAMPLE:-}" --checkpoint "$run" ${SAMPLE_OPTIONS:-})
  echo "sample $sampled"
  merged=$(submit sample "$sampled" "--job-name=glow-merge ${SBATCH_SAMPLE:-}" --checkpoint "$run" ${SAMPLE_OPTIONS:-} --merge true)
  echo "merge $merged"
  # After the grids, which the report shows.
  evaluated=$(submit evaluate "$merged" "${SBATCH_EVALUATE:-}" --checkpoint "$run" --data "$data" ${EVALUATE_OPTIONS:-})
  echo "evaluate $evaluated"
}
