#!/usr/bin/env bash
# The commands behind the committed records. Runs that have a record are not repeated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
records=leaderboards/records
all="stl ls uw famo mgda cagrad fairgrad graddrop"

run() { mtlbench run "$@" --seed 0 1 2 --device cpu --out "$records"; }

run multimnist --method $all
run multimnist --method ls mgda fairgrad --sharpness sam:rho=0.1 fmtl:rho=0.1 samo:rho=0.1
run qm9 --method $all
run qm9 --method ls mgda fairgrad --sharpness sam:rho=0.001 fmtl:rho=0.001 samo:rho=0.001
for task in cityscapes nyuv2; do
    run $task --method stl ls mgda cagrad fairgrad
    run $task --method ls mgda cagrad fairgrad --sharpness sam:rho=0.01 fmtl:rho=0.01 samo:rho=0.01
done
for task in office_home celeba; do
    run $task --method stl ls mgda fairgrad
    run $task --method ls mgda fairgrad --sharpness fmtl:rho=0.01 samo:rho=0.01
done
run celeba --method ls mgda fairgrad --sharpness samo:rho=0.01,noise=shared,points=by-sign

mtlbench leaderboard "$records" --out leaderboards --plot
