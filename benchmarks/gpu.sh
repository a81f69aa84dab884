#!/usr/bin/env bash
# What a GPU makes of the library, smallest things first, so that a cut costs only what is left.
#
#     benchmarks/gpu.sh OUT [SECONDS]
#
# Each line below writes OUT/NAME.json (and OUT/NAME.log) before the next begins; one that fails or
# passes its limit leaves its log and the others go on. Nothing is installed or downloaded, and no
# setting of the device is touched. SECONDS (840) is the time of all together. Without a GPU, or
# with LATENTCAST_TOY=1, everything runs in little on the CPU, to see whether the script works.
set -u
out=${1:?usage: benchmarks/gpu.sh OUT [SECONDS]}
seconds=${2:-840}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
mkdir -p "$out"
end=$((SECONDS + seconds))

toy=${LATENTCAST_TOY:-0}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || toy=1
little=(encoder.width=48 encoder.depth=1 encoder.heads=2 encoder.mlp_width=96)

# measure NAME LIMIT FLAGS...: a step of a recipe, as step.py measures it.
measure() {
    local name=$1 limit=$2 left=$((end - SECONDS))
    shift 2
    if [ "$left" -le 5 ]; then
        echo "$name: no time left" | tee -a "$out/left_out.txt"
        return
    fi
    if [ "$toy" = 1 ]; then
        case $name in
        nepa-ecg-small) set -- "$@" --rounds 1 --batch 2 --set "${little[@]}" ;;
        ijepa-image-base) set -- "$@" --rounds 1 --batch 2 --set "${little[@]}" \
            train.micro_batches=1 objective.predictor.width=48 \
            objective.predictor.depth=1 objective.predictor.heads=2 ;;
        *) return ;;
        esac
    fi
    timeout "$((limit < left ? limit : left))" "$python" "$here/step.py" "$@" \
        --out "$out/$name.json" >"$out/$name.log" 2>&1 ||
        echo "$name: ended with $? ($out/$name.log)" | tee -a "$out/left_out.txt"
}

rm -f "$out/left_out.txt"
"$python" "$here/device.py" >"$out/device.json" 2>"$out/device.log" ||
    echo "device: $out/device.log" | tee -a "$out/left_out.txt"
measure nepa-ecg-tiny 60 --recipes nepa-ecg-tiny
measure nepa-ecg-small 90 --recipes nepa-ecg-small
measure ijepa-ecg-small 90 --recipes ijepa-ecg-small
measure conv-ecg-small 90 --recipes conv-ecg-small
measure ijepa-image-base 120 --recipes ijepa-image-base --batch 128 --set train.micro_batches=1
measure nepa-ecg-small-compiled 150 --recipes nepa-ecg-small --compile
measure nepa-ecg-small-fp32 60 --recipes nepa-ecg-small --batch 64 --set train.precision=fp32
measure nepa-ecg-base 120 --recipes nepa-ecg-base --batch 128
measure ijepa-image-base-compiled 240 --recipes ijepa-image-base --batch 128 --compile \
    --set train.micro_batches=1
ls "$out"/*.json
