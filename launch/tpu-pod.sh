#!/bin/bash
# Train on a TPU pod slice of spot machines, and get a new one after preemption:
#
#   PROJECT=... ZONE=us-central2-b TYPE=v4-32 launch/tpu-pod.sh \
#       --config configs/resnet50.py --config.dtype=bfloat16 --workdir gs://BUCKET/runs/resnet50
#
# All arguments are train.py's. It runs on your machine, for as long as the training does, and needs
# gcloud; the machines clone SOURCE. A pod has no shared disk: --workdir is in a bucket.
set -u
NAME=${NAME:-jaxcnn} PROJECT=${PROJECT:?} ZONE=${ZONE:?} TYPE=${TYPE:?}
RUNTIME=${RUNTIME:-tpu-ubuntu2204-base} SOURCE=${SOURCE:?the URL of a git repository of jaxcnn}
RESTARTS=${RESTARTS:-100} # at most, so that a run that always fails ends
PAUSE=${PAUSE:-30}        # seconds between asking for the state

tpus() { gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE" --quiet; }
state() { tpus queued-resources describe "$NAME" --format='value(state.state)' 2>/dev/null; }
on_all() { tpus tpu-vm ssh "$NAME" --worker=all --command="$1"; }

machines() { # until they are there
    until [[ $(state) == ACTIVE ]]; do
        case $(state) in
        "")
            tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
                --runtime-version="$RUNTIME" --spot || return
            ;;
        SUSPENDED | FAILED) # preempted: what is left is deleted
            tpus queued-resources delete "$NAME" --force
            ;;
        esac
        sleep "$PAUSE"
    done
    on_all "test -d jaxcnn || (git clone $SOURCE jaxcnn && cd jaxcnn &&
        python3 -m venv venv && venv/bin/pip install -c constraints.txt -e '.[tpu,gcs]')"
}

for ((start = 0; start <= RESTARTS; start++)); do
    machines || continue
    # What processes of an earlier start are left would hold the TPU. (The brackets keep pkill from
    # finding the shell that runs it.)
    on_all "pkill -TERM -f '[t]rain.py' && sleep 60; true"
    output=$(on_all "cd jaxcnn && venv/bin/python train.py$(printf ' %q' "$@"); echo status=\$?" |
        tee /dev/stderr)
    if [[ $output == *status=2* ]]; then
        echo "Not started again: the request was wrong, as train.py says above." >&2
        exit 2
    elif [[ $output == *status=0* && $output != *status=[1-9]* ]]; then
        tpus queued-resources delete "$NAME" --force
        exit 0
    fi
    echo "Ended; start $((start + 1)) follows." >&2
done
exit 1
