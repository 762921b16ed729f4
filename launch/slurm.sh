#!/bin/bash
# Train on several machines of a Slurm cluster, and go on after preemption and time limits:
#
#   sbatch launch/slurm.sh --config configs/resnet50.py --workdir /shared/runs/resnet50
#
# All arguments are train.py's. Change the lines below for your cluster, or give them to sbatch.
#SBATCH --job-name=jaxcnn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Three minutes before the time limit train.py is told to save and stop.
#SBATCH --signal=USR1@180

RESTARTS=${RESTARTS:-100} # at most, so that a run that always fails ends

# Preempted, Slurm may send SIGTERM to this shell, too. It has to see how srun ends.
trap : TERM USR1

# --kill-on-bad-exit: where one process has died, the others end at once.
srun --kill-on-bad-exit=1 python train.py "$@" &
wait $!
status=$?
while kill -0 $! 2>/dev/null; do # a signal ended the wait, but not srun
    wait $!
    status=$?
done

case $status in
0) echo "Trained." ;;
2) echo "Not started again: the request was wrong, as train.py says above." ;;
*) # 138 (SIGUSR1) and 143 (SIGTERM): state saved; others: a process or a machine has died
    if ((${SLURM_RESTART_COUNT:-0} < RESTARTS)); then
        echo "Ended with status $status; start $((${SLURM_RESTART_COUNT:-0} + 1)) follows."
        # Of a job that Slurm has put back into the queue itself this fails, and need not work.
        scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit $status
