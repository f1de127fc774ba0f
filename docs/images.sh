#!/bin/sh
# Trains the runs of docs/analyses.md and draws its figures into docs/images: hours on a CPU, and again what is missing.
# sh docs/images.sh DATA CIFAR10   (where MNIST lies; the folder of CIFAR-10's parquet files)
set -e
export SLOTKIT_RUNS=images-runs SLOTKIT_DATA="$1"

train() {
    name=$1
    shift
    if [ ! -e "$SLOTKIT_RUNS/$name" ]; then slotkit train --name "$name" "$@"; fi
}

figure() {
    name=$1 analysis=$2
    shift 2
    slotkit analyze "$analysis" "$@" --out "$SLOTKIT_RUNS/figures/$name"
    cp "$SLOTKIT_RUNS/figures/$name/$analysis.svg" "docs/images/$name.svg"
}

greedy="--recipe authors-lenet-greedy --epochs 20 --trace full"
train k8 $greedy
train k8-s1 $greedy --seed 1
train k8-s2 $greedy --seed 2
train k2 $greedy --k 2 --lr 0.1
train k64 $greedy --k 64 --lr 0.1
train restarts --recipe paper-lenet-greedy --epochs 20 --trace full --set "training.restart_epochs=[5,12]"
figure flips flips k8
figure flips-by-k flips k2 k8 k8-s1 k8-s2 k64
figure thresholds-by-k thresholds k2 k8 k8-s1 k8-s2 k64
figure thresholds-restarts thresholds restarts
figure weights weights k8 k8-s1 k8-s2
figure weights-by-k weights k2 k8 k8-s1 k8-s2 k64

train conv2 --recipe authors-conv2-greedy --dataset "parquet:$2" --epochs 4 --trace full
figure flips-conv2 flips conv2
figure thresholds-conv2 thresholds conv2

sampled="--recipe authors-lenet-probabilistic --epochs 8 --set recording.keep_epochs=[1,2,4,6,8]"
train ps8 $sampled
train ps8-s1 $sampled --seed 1
train ps8-s2 $sampled --seed 2
train ps2 $sampled --k 2
train ps64 $sampled --k 64
figure weights-by-selection weights ps8 ps8-s1 k8 k8-s1 k8-s2 --moments 8
figure ps-variance-by-k ps-variance ps2 ps8 ps8-s1 ps8-s2 ps64 --checkpoints start,epoch-1,epoch-4,epoch-8

rate="--recipe authors-lenet-probabilistic --epochs 4 --lr 25 --set recording.keep_epochs=[1,2,4]"
train lr25 $rate
train lr25-l2 $rate --set training.weight_decay=1e-4
figure ps-variance-l2 ps-variance lr25 lr25-l2 --checkpoints start,epoch-1,epoch-2,epoch-4

selected="--model lenet --dataset mnist --selection PS --ps-eval sample --lr 25 --epochs 3"
selected="$selected --set slots.init=glorot-deviation --set slots.update=selected --set training.momentum=0"
selected="$selected --set data.mean=[0.5] --set data.std=[0.5] --set evaluation.draws=2"
for k in 2 4 8; do train "selected$k" $selected --set "recording.keep_epochs=[1,2,3]" --k "$k"; done
figure ps-variance-selected ps-variance selected2 selected4 selected8

factors="update rule,momentum and learning rate,option bound,score bound"
slotkit analyze gap --dataset mnist --model lenet --epochs 10 --seeds 0,1 --factors "$factors" --out "$SLOTKIT_RUNS/figures/gap"
cp "$SLOTKIT_RUNS/figures/gap/gap.svg" docs/images/gap.svg
