#!/bin/bash
# A run that outlives its time limit and its preemption: sbatch examples/slurm.sh config.ini [section.key=value ...]
#
# Three minutes before the job has to go, Slurm sends SIGUSR1 to this script, which tells mpirun, which tells all ranks:
# they finish the step, write a checkpoint of it and end with 75. The job is then put into the queue again, and the same
# command goes on from there. Any other end is the job's. Checkpoints are needed for that: [checkpoint] interval.
#
# Three minutes are enough for two steps and a checkpoint of most models; write more where yours take longer.
#
#SBATCH --job-name=dstrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180

trap 'kill -USR1 $!' USR1 # bash obeys traps while it waits, and then waits no longer
mpirun --bind-to none "${DSTRAIN:-dstrain}" "$@" &
run=$!

while :; do
    wait $run
    kill -0 $run 2>/dev/null || break
done
wait $run
code=$?

[ $code -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"
exit $code
