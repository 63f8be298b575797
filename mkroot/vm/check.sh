# What runs in the guest: mkroot puts nonce, port and linger before it and the recipe's commands behind. It needs a
# POSIX shell, coreutils and gzip, or busybox. Comments and indentation are left out of what is handed over.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
export PATH HOME
d=/run/mkroot
mkdir -p $d
exec 3>>/dev/$port
sh=/bin/sh
[ -x $sh ] || sh='busybox sh'
n=0
list=
state=
failed=
analyze=
up() { read -r u x </proc/uptime; }
b() { base64 | tr -d '\n'; }
check() {
    n=$((n + 1))
    up
    from=$u
    $sh -c "$2" >$d/out 2>&1 </dev/null 3>&-
    s=$?
    up
    list="$list${list:+,}{\"status\":$s,\"from\":$from,\"to\":$u,\"out\":\"$(tail -c 3000 $d/out | b)\"}"
    echo "mkroot-check: command $n: status $s, $1 was wanted"
}
tell() {
    up
    m=$(head -n 3 /proc/meminfo | b)
    e=$(cat $d/boot.env 2>/dev/null | b)
    f=$(grep -E ' (/boot|/efi)(/[^ ]*)? ' /proc/mounts | b)
    printf 'mkroot-verdict %s {"state":"%s","ready":%s,"uptime":%s,"commands":[%s],"memory":"%s","boot":"%s","mounts":"%s","analyze":"%s","failed":"%s"}\n' \
        "$nonce" "$state" "$ready" "$u" "$list" "$m" "$e" "$f" "$analyze" "$failed" >&3
}
off() {
    [ "$linger" = 0 ] || sleep "$linger"
    sync
    if [ -d /run/systemd/system ]; then systemctl poweroff -ff; else busybox poweroff -f; fi
}
printf 'mkroot-check %s begins\n' "$nonce" >&3
if [ -d /run/systemd/system ]; then
    state=$(systemctl is-system-running --wait 2>&1 | tr -cd 'a-z-')
    analyze=$(systemd-analyze time 2>/dev/null | head -n 1 | b)
    [ "$state" = running ] || failed=$(systemctl --failed --no-legend --plain 2>&1 | head -n 20 | b)
fi
up
ready=$u
echo "mkroot-check: the system is up${state:+: $state}"
