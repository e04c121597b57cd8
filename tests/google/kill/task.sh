# One task: says when it begins and ends, takes a lock that a second attempt at the same time would find taken, leaves an output and a result.
# SLOW in its environment stands for seconds: no part of what the task is.
set -eu
x=$1 seconds=$2
say() { echo "$1 $SPARKLES_JOB/$SPARKLES_TASK $SPARKLES_ATTEMPT $(cut -d ' ' -f 1 /proc/uptime)" >>"$TRACE/log"; }
exec 9>"$TRACE/lock.$SPARKLES_JOB.$SPARKLES_TASK"
if ! flock -n 9; then say overlaps; fi
say begins
sleep "${SLOW:-$seconds}" 9>&9
seed=0
for file in in/*.txt; do if [ -e "$file" ]; then seed=$((seed + $(cat "$file"))); fi; done
echo $((x * x + 1 + seed)) >out.txt
printf '{"value": %d}' $((x * x + 1 + seed)) >"$SPARKLES_RESULTS"
say ends
