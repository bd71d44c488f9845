# Sourced. step NAME COMMAND...: run the command, then print how long it took and how it ended.
step() {
    local name=$1 began=$SECONDS status=0
    shift
    echo "== $name"
    "$@" || status=$?
    if [ "$status" -eq 0 ]; then
        echo "== $name: ok after $((SECONDS - began)) s"
    else
        echo "== $name: FAILED after $((SECONDS - began)) s"
    fi
    return "$status"
}
