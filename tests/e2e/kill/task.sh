# One task: takes a lock that a second attempt at the same time would find taken, works a little, leaves an output and a result.
set -eu
name=$1 x=$2
exec 9>"$TRACE/lock.$SPARKLES_JOB.$SPARKLES_TASK"
if ! flock -n 9; then echo "$SPARKLES_JOB/$SPARKLES_TASK" >>"$TRACE/overlaps"; fi
sleep 0.06 9>&9
seed=0
for file in in/*.txt; do if [ -e "$file" ]; then seed=$((seed + $(cat "$file"))); fi; done
echo $((x * x + 1 + seed)) >out.txt
printf '{"value": %d}' $((x * x + 1 + seed)) >"$SPARKLES_RESULTS"
