#!/bin/sh
# The guest's application in these tests: rewrites a block of memory and a file without end, checks
# each before it is rewritten, and says so. The host name tells it to end the machine.
sum() { md5sum <"$1"; }
fill() { dd if=/dev/urandom of="$1" bs=64k count="$2" conv=notrunc 2>/dev/null; }

# A program in a page of memory that keeps its place. Its exit status is in its code.
if [ "$(uname -m)" = x86_64 ]; then
    mount -o remount,exec /dev/shm
    cat /bin/answer-7 >/dev/shm/answer
    chmod 755 /dev/shm/answer
fi

pass=0
while :; do
    case "$(hostname)" in
    power-off) echo o >/proc/sysrq-trigger; sleep 60 ;;
    panic) echo c >/proc/sysrq-trigger ;;
    chatty) while :; do echo abcdefghijklmnopqrstuvwxyz; done ;;
    changed) dd if=/bin/answer-8 of=/dev/shm/answer conv=notrunc 2>/dev/null ;;
    esac
    if [ "$pass" -gt 0 ]; then
        [ "$(sum /dev/shm/block)" = "$memory" ] || echo "FAIL memory of pass $pass;"
        # What is read now comes from the disk.
        echo 3 >/proc/sys/vm/drop_caches
        [ "$(sum /data/block)" = "$file" ] || echo "FAIL file of pass $pass;"
    fi
    if [ -f /dev/shm/answer ]; then
        /dev/shm/answer
        echo "answer $?;"
    fi
    pass=$((pass + 1))
    fill /dev/shm/block 64
    memory="$(sum /dev/shm/block)"
    fill /data/block 8
    sync
    file="$(sum /data/block)"
    echo "pass $pass $(hostname) $(cat /etc/machine-id);"
done
