#!/usr/bin/env bash
# A real SLURM on this machine for the tests, as root: a controller and three nodes, each in namespaces of its own.
#   cluster.sh up DIR     start; DIR/bin holds sbatch, squeue ... that talk to it
#   cluster.sh down DIR   end every process of it and remove DIR
# All processes descend from the init of one PID namespace, so that ending that one ends all. Nodes see the file system of
# the machine, but have their own host name, address and loopback: what works only within one machine fails here.
set -euo pipefail
self=$(readlink -f "${BASH_SOURCE[0]}")
dir=$(readlink -m "${2:?usage: cluster.sh up|down DIR}")
nodes=3 net=10.77.3 freezer=/sys/fs/cgroup/freezer
# A name that no other cluster has: what one leaves behind that was killed must not keep the next from starting.
group=$freezer/glow-slurm-$(cksum <<<"$dir" | cut -d ' ' -f 1)
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$dir/slurm.conf

fail() { echo "cluster.sh: $*" >&2; exit 1; }

# The process by its id and its start time: ids are used again.
started() { awk '{ sub(/.*\) /, ""); if ($1 != "Z") print $20 }' "/proc/$1/stat" 2>/dev/null; }
is_up() { [[ -s $dir/pid ]] && read -r pid since <"$dir/pid" && [[ $(started "$pid") == "$since" ]]; }

install_slurm() {
  local guard=/usr/sbin/policy-rc.d made=''
  type -P slurmctld slurmd sbatch munged ip pgrep >/dev/null && return
  type -P apt-get >/dev/null || fail "SLURM is not installed, and there is no apt-get to install it"
  [[ -e $guard ]] || { printf '#!/bin/sh\nexit 101\n' >$guard && chmod 755 $guard && made=1; }   # start no services
  { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -yq install --no-install-recommends \
      slurmctld slurmd slurm-client munge iproute2 procps; } >"$dir/log/apt.log" 2>&1 </dev/null ||
    { [[ -z $made ]] || rm $guard; fail "SLURM cannot be installed: $(tail -n 1 "$dir/log/apt.log")"; }
  [[ -z $made ]] || rm $guard
}

configure() {
  local track=cgroup
  # By cgroup a signal reaches the task alone, as on most clusters; linuxproc would pass it to all descendants.
  mkdir -p "$group" 2>/dev/null || track=linuxproc
  (umask 077; head -c 128 /dev/urandom >"$dir/munge/key")
  { echo "127.0.0.1 localhost"; echo "$net.100 control"; for ((i = 1; i <= nodes; i++)); do echo "$net.$i node$i"; done; } >"$dir/hosts"
  echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf"
  cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=control($net.100)
SlurmUser=root
SlurmdUser=root
# A requeued job waits until its credential has expired: 120 s unless told.
AuthInfo=socket=$dir/munge/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/$track
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# There is no accounting: finished jobs stay with the controller.
MinJobAge=86400
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
KillWait=20
NodeName=DEFAULT Sockets=1 CoresPerSocket=8 ThreadsPerCore=1
$(for ((i = 1; i <= nodes; i++)); do echo "NodeName=node$i NodeAddr=$net.$i"; done)
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE DefaultTime=10
# Its jobs have 60 s to end when one of the other partition wants their nodes.
PartitionName=main Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent PriorityTier=2
CONF
}

up() {
  [[ $(id -u) == 0 ]] || fail "needs root"
  mkdir -p "$dir"/{log,state,spool,munge,bin}
  [[ ${#dir} -le 80 ]] || fail "path too long for a socket: $dir"
  chmod 755 "$dir" "$dir/munge"
  install_slurm
  configure
  setsid unshare --kill-child --fork --pid --mount-proc --net --uts --mount --propagation slave \
    bash "$self" control "$dir" >"$dir/log/control.log" 2>&1 </dev/null &
  echo "$! $(started $!)" >"$dir/pid"
  local name
  for name in sbatch squeue scontrol scancel sinfo srun; do
    # From outside the namespaces as from within.
    printf '#!/bin/sh\nexport SLURM_CONF=%s\ngrep -qx "$(hostname)" %s && exec /usr/bin/%s "$@"\nexec nsenter --target %s --net --uts /usr/bin/%s "$@"\n' \
      "$dir/slurm.conf" "$dir/hostnames" $name $! $name >"$dir/bin/$name"
    chmod 755 "$dir/bin/$name"
  done
  for ((i = 0; i < 600; i++)); do   # 2 minutes: the machine may be busy
    [[ $("$dir/bin/sinfo" -h -N -p main -o %T 2>/dev/null | grep -cx idle) != "$nodes" ]] || return 0
    is_up || break
    sleep 0.2
  done
  tail -n 5 "$dir"/log/*.log >&2
  down
  fail "SLURM does not start"
}

control() { # the init of the outer PID namespace
  hostname control
  { echo control; for ((i = 1; i <= nodes; i++)); do echo "node$i"; done; } >"$dir/hostnames"
  mount --bind "$dir/hosts" /etc/hosts
  ip link set lo up
  ip link add br0 type bridge
  ip addr add "$net.100/24" dev br0
  ip link set br0 up
  munged --foreground --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
    --seed-file="$dir/munge/seed" --log-file="$dir/log/munged.log" &
  until [[ -S $dir/munge/socket ]]; do sleep 0.05; done
  slurmctld -D &
  for ((i = 1; i <= nodes; i++)); do
    unshare --kill-child --fork --pid --mount-proc --net --uts --mount --propagation slave bash "$self" node "$dir" "$i" &
    until [[ -e $dir/spool/node$i ]]; do sleep 0.05; done
    ip link add "veth$i" type veth peer name eth0 netns $!
    ip link set "veth$i" master br0 up
  done
  sleep 3600   # at most: should down never be called
}

node() { # the init of a node's PID namespace
  hostname "node$1"
  mkdir "$dir/spool/node$1"
  until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
  ip link set lo up
  ip addr add "$net.$1/24" dev eth0
  ip link set eth0 up
  [[ ! -d $group ]] || { mkdir -p "$group/node$1"; mount --bind "$group/node$1" "$freezer"; }
  slurmd -D &   # not exec: an init has to collect orphans
  wait $!
}

down() {
  local init
  if is_up; then
    init=$(pgrep --parent "$pid") || true
    kill -KILL "${init:-$pid}"   # the kernel ends all others of the namespace before this one is gone
    for ((i = 0; i < 100; i++)); do is_up || break; sleep 0.1; done
    ! is_up || fail "process $pid does not end"
  fi
  [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} +
  rm -rf "$dir"
}

case $1 in
  up | down) "$1" ;;
  control | node) "$1" "${@:3}" ;;
  *) fail "up or down, not $1" ;;
esac
