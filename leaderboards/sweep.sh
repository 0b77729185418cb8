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

mtlbench leaderboard "$records" --out leaderboards --plot
