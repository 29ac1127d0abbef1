//! The file system in which `buildah` builds: the host's programs, read-only, what the build itself is made
//! of, and nothing else of the host. `buildah` works with the rights of the host's root on paths that a
//! Dockerfile names; where one leads out of its place, it leads to nothing.
//!
//! Not here: the namespaces themselves, and what the containers see (the runtime's).

use std::path::Path;

/// A shell script that makes the file system in its own mount namespace, moves into it and executes a
/// program. Its arguments are those of [`Confinement::words`].
///
/// The root is a small tmpfs: what `buildah` makes in it ends with the build. `/etc` has what programs need
/// to run and to reach registries; `/sys` has the cgroups only, which the runtime bounds the containers by.
const SCRIPT: &str = r#"
set -e
cd "$1"; resolver=$2 scratch=$3 place=$4; shift 4
mount -t tmpfs -o mode=0755,nosuid,nodev,size=16m root .
cd "$PWD"
read_only() { mount --bind "$1" ".$1"; mount -o remount,bind,ro,nosuid,nodev ".$1"; }
for name in usr bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then cp -P "/$name" .; elif [ -d "/$name" ]; then mkdir "$name"; read_only "/$name"; fi
done
mkdir -p dev proc sys/fs/cgroup tmp run etc/containers/networks ".$place"
for path in /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache /etc/localtime \
  /etc/alternatives /etc/ca-certificates /etc/crypto-policies /etc/pki /etc/ssl /etc/containers/*; do
  if [ "$path" = /etc/containers/networks ]; then continue
  elif [ -f "$path" ]; then : > ".$path"
  elif [ -d "$path" ]; then mkdir ".$path"
  else continue; fi
  read_only "$path"
done
# Programs look their own host's name up: without this, in DNS, until it times out.
echo "127.0.0.1 localhost $(uname -n)" > etc/hosts
: > etc/resolv.conf; mount --bind "$resolver" etc/resolv.conf
mount -t tmpfs -o mode=0755,nosuid,noexec,size=64k devices dev
for node in null zero full random urandom tty; do : > "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
ln -s /proc/self/fd dev/fd
mount -t proc -o nosuid,nodev,noexec proc proc
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --bind "$scratch" ".$place"
while [ "$1" != -- ]; do
  if [ -d "$2" ]; then mkdir -p ".$2"; else mkdir -p ".${2%/*}"; : > ".$2"; fi
  if [ "$1" = ro ]; then read_only "$2"; else mount --bind "$2" ".$2"; fi
  shift 2
done
shift
mkdir .host
pivot_root . .host
umount -l /.host
rmdir /.host
cd /
exec "$@"
"#;

/// What a build is made of.
pub(crate) struct Confinement<'a> {
    /// An empty directory to put the file system on.
    pub(crate) root: &'a Path,
    /// The resolver's configuration: names are looked up where the containers look them up.
    pub(crate) resolver: &'a Path,
    /// Directory for temporary files, and where it appears.
    pub(crate) scratch: (&'a Path, &'a Path),
    /// What else is there, at its own path, read-only.
    pub(crate) read_only: Vec<&'a Path>,
    /// What else is there, at its own path, to be written.
    pub(crate) writable: Vec<&'a Path>,
}

impl Confinement<'_> {
    /// The program and arguments that execute what follows them inside.
    pub(crate) fn words(&self) -> Vec<String> {
        let (scratch, place) = self.scratch;
        let mut words = ["/bin/sh", "-c", SCRIPT, "sh"].map(str::to_owned).to_vec();
        let places = [self.root, self.resolver, scratch, place];
        words.extend(places.map(|path| path.display().to_string()));
        for (mode, paths) in [("ro", &self.read_only), ("rw", &self.writable)] {
            for path in paths {
                words.extend([mode.to_owned(), path.display().to_string()]);
            }
        }
        words.push("--".to_owned());
        words
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::Confinement;

    #[test]
    fn inside_there_is_next_to_nothing_of_the_host_and_its_programs_cannot_be_written() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["root", "scratch", "shown", "kept", "hidden"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        let (shown, kept) = (at("shown"), at("kept"));
        let confinement = Confinement {
            root: &at("root"),
            resolver: &at("resolv.conf"),
            scratch: (&at("scratch"), Path::new("/var/tmp")),
            read_only: vec![&shown],
            writable: vec![&kept],
        };
        let look = r#"ls -d /home /root /boot /etc/shadow /etc/hostname /sys/class /dev/kvm /.host "$1/hidden" 2>/dev/null
            touch /usr/touched "$1/shown/touched" 2>/dev/null
            touch "$1/kept/touched" /var/tmp/touched
            cat /etc/resolv.conf; tail -n +1 /proc/1/comm"#;
        let output = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--propagation",
                "private",
                "--",
            ])
            .args(confinement.words())
            .args(["sh", "-c", look, "sh"])
            .arg(directory.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text, "nameserver 192.0.2.1\nsh\n", "{errors}");
        assert!(at("kept/touched").exists() && at("scratch/touched").exists());
        assert!(!at("shown/touched").exists() && !Path::new("/usr/touched").exists());
        assert_eq!(std::fs::read_dir(at("root")).unwrap().count(), 0);
    }
}
