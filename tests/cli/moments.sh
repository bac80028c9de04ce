# moments.sh - sourced: when a run decided that it ends, to measure from there how long its ranks take.

now() { # hundredths of a second since the machine started
    read -r up rest </proc/uptime
    echo "${up%.*}${up#*.}"
}

# stderr goes through here; the first line that says why the run ends is the moment of decision
watch_lines() {
    while IFS= read -r line; do
        case $line in
        *': error: '* | *'this rank is killed now') [ -s decided ] || now >decided ;;
        esac
        printf '%s\n' "$line"
    done
}
