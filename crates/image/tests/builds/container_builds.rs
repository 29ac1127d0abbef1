//! Dockerfiles built for real, friendly and hostile, down to the root disk. The machine is left out:
//! see `common`. Skipped, with the reason printed, where this machine cannot build containers.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{BASE, ground};
use colibri_image::{BuildStage, FailureCode, ImageBuilder as _, Progress};

/// Sets `cap_net_raw+ep` on `/ping`: setxattr(2), by its number, because a slim image has no `setcap`.
const CAPABILITY: &str = r#"($f, $n, $v) = ("/ping", "security.capability", pack("V5", 0x02000001, 0x2000, 0, 0, 0)); syscall(188, $f, $n, $v, 20, 0) == 0 or die $!"#;

/// A Dockerfile that starts from the tests' base image.
fn dockerfile(rest: &str) -> String {
    format!("FROM {BASE}\n{rest}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_becomes_a_root_disk_with_the_images_own_owners_and_modes() {
    let Some(ground) = ground() else { return };
    let text = format!(
        "FROM {BASE} AS first\nRUN mkdir /data && echo one > /data/one && chown -R 1000:1001 /data\n\
         FROM first AS second\nRUN echo two > /data/two && chown 42:43 /data/two\n\
         FROM second\nSHELL [\"/bin/bash\", \"-c\"]\nRUN [[ -n $BASH_VERSION ]] && ln -s /etc/shadow /data/link\n\
         COPY --from=first --chown=7:8 /data/one /copied\nCOPY run.sh /run.sh\n\
         RUN cp /bin/true /sudo && chmod 4755 /sudo && cat /data/one && cat /etc/resolv.conf\n\
         RUN cp /bin/true /ping && perl -e '{CAPABILITY}'\n\
         ENV COLOUR=blue\nEXPOSE 9090\nENTRYPOINT [\"/run.sh\"]\n"
    );
    let failure = ground
        .build(&[("Dockerfile", &text), ("run.sh", "#!/bin/sh\n")])
        .await
        .unwrap_err();
    assert_eq!(
        failure.to_string(),
        "INTERNAL_PLATFORM_ERROR: The platform could not start the build's machine."
    );
    assert_eq!(
        ground.stages.seen.lock().unwrap().last(),
        Some(&BuildStage::Boot),
        "{}",
        ground.log.text()
    );

    let shown = |path: &str| ground.vmm.debugfs(&format!("stat {path}"));
    for (path, expected) in [
        ("/data", ["Mode:  0755", "User:  1000   Group:  1001"]),
        ("/data/one", ["Mode:  0644", "User:  1000   Group:  1001"]),
        ("/data/two", ["Mode:  0644", "User:    42   Group:    43"]),
        ("/copied", ["Mode:  0644", "User:     7   Group:     8"]),
        ("/run.sh", ["Mode:  0755", "User:     0   Group:     0"]),
        ("/sudo", ["Mode:  04755", "User:     0   Group:     0"]),
        ("/bin/bash", ["Type: regular", "User:     0   Group:     0"]),
        (
            "/data/link",
            ["Type: symlink", "Fast link dest: \"/etc/shadow\""],
        ),
    ] {
        let text = if path == "/bin/bash" {
            shown("/usr/bin/bash")
        } else {
            shown(path)
        };
        assert!(
            expected.iter().all(|part| text.contains(part)),
            "{path}: {text}"
        );
    }
    let capability = ground.vmm.debugfs("ea_get -x /ping security.capability");
    assert!(
        capability.contains("01 00 00 02 00 20 00 00"),
        "{capability}"
    );
    let disk = ground.vmm.disk.lock().unwrap().clone().unwrap();
    let metadata = std::fs::metadata(disk).unwrap();
    let stored = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert_eq!(metadata.len(), 1 << 30);
    let code = ground.stages.code_bytes.lock().unwrap().unwrap();
    assert!(
        stored < code + code / 2 + (32 << 20),
        "{stored} bytes for an image of {code}"
    );

    let log = ground.log.text();
    assert!(
        log.contains("stage 3 of 7: root disk: ") && log.contains("nameserver 172.16.0.1"),
        "{log}"
    );
    assert!(
        !log.contains(&ground.directory.path().display().to_string()),
        "{log}"
    );
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_is_named_and_its_output_is_in_the_log() {
    let Some(ground) = ground() else { return };
    let text = dockerfile("RUN echo so far so good; echo this is why >&2; exit 3\nCMD [\"x\"]");
    let failure = ground.build(&[("Dockerfile", &text)]).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::ContainerBuildFailed);
    let sentence = &failure.sentence;
    assert!(
        sentence
            .starts_with("The container image build failed. building at STEP \"RUN echo so far"),
        "{sentence}"
    );
    assert!(sentence.ends_with("exit status 3."), "{sentence}");
    let log = ground.log.text();
    assert!(
        log.contains("so far so good") && log.contains("this is why"),
        "{log}"
    );
    assert!(
        log.ends_with(&format!("the build failed: {failure}")),
        "{log}"
    );
    assert_eq!(*ground.stages.code_bytes.lock().unwrap(), None);
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_dockerfile_finds_neither_the_host_nor_its_network() {
    let Some(ground) = ground() else { return };
    let host_secret = ground.directory.path().join("secret");
    std::fs::write(&host_secret, "hunter2").unwrap();
    let probes = "RUN echo map $(cat /proc/self/uid_map)\n\
        RUN ! mknod /disk b 8 0 && ! mount -t tmpfs x /mnt && echo no privileges\n\
        RUN ls /sys && ! ls /sys/class 2>/dev/null && echo no sysfs\n\
        RUN echo links $(tail -n +3 /proc/net/dev | cut -d: -f1)\n\
        RUN echo environment $(env | cut -d= -f1 | sort)\n\
        RUN ! (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo proc is read-only\n\
        RUN echo processes $(ls /proc | grep -c '^[0-9]')\nCMD [\"x\"]";
    let failure = ground
        .build(&[("Dockerfile", &dockerfile(probes))])
        .await
        .unwrap_err();
    let log = ground.log.text();
    assert_eq!(failure.code, FailureCode::InternalPlatformError, "{log}");
    for said in [
        "map 0 1000000 65536",
        "no privileges",
        "no sysfs",
        "links lo",
        "environment HOME HOSTNAME PATH PWD",
        "proc is read-only",
    ] {
        // The step's own text is in the log too: only whole lines are output.
        assert!(log.lines().any(|line| line == said), "no {said:?} in {log}");
    }

    for (step, reason) in [
        (
            format!("FROM dir:{}", ground.directory.path().display()),
            "build container",
        ),
        (
            "FROM docker-daemon:secret:latest".to_owned(),
            "build container",
        ),
        (
            format!("FROM {BASE}\nADD http://127.0.0.1:1/x /x"),
            "127.0.0.1:1",
        ),
        (format!("FROM {BASE}\nCOPY ../../secret /x"), "secret"),
    ] {
        let failure = ground
            .build(&[("Dockerfile", &format!("{step}\nCMD [\"x\"]\n"))])
            .await
            .unwrap_err();
        assert_eq!(
            failure.code,
            FailureCode::ContainerBuildFailed,
            "{step}: {failure}"
        );
        assert!(failure.sentence.contains(reason), "{step}: {failure}");
        assert!(!failure.sentence.contains("hunter2"));
    }
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_dropped_or_out_of_time_leaves_no_process_and_no_container() {
    let Some(ground) = ground() else { return };
    // A time that nothing else on the machine sleeps for, to find the process by.
    let text = dockerfile(
        "RUN sleep 98765 & sleep 98765 & \
         while [ $(cat /proc/[0-9]*/comm | grep -c sleep) != 2 ]; do :; done; echo as''leep; wait\nCMD [\"x\"]",
    );
    let builder = ground.builder(ground.settings(), &[("Dockerfile", &text)]);
    let progress: Arc<dyn Progress> = ground.stages.clone();
    let (request, building) = (ground.request(), builder.clone());
    let build = tokio::spawn(async move { building.build(request, progress).await });
    ground.log.wait_for("asleep").await;
    assert_eq!(sleepers(), 2);
    build.abort();
    ground.log.wait_for("the build failed").await;
    assert_eq!(sleepers(), 0);
    ground.assert_nothing_left();

    let mut settings = ground.settings();
    settings.container_time = Duration::from_secs(5);
    let progress: Arc<dyn Progress> = ground.stages.clone();
    let builder = ground.builder(settings, &[("Dockerfile", &text)]);
    let failure = builder.build(ground.request(), progress).await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "CONTAINER_BUILD_FAILED: The container image build failed. It took longer than 5 s."
    );
    assert_eq!(sleepers(), 0);
    ground.assert_nothing_left();
}

/// Processes that sleep for the tests' own time.
fn sleepers() -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines
        .filter(|line| line.starts_with(b"sleep\098765"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fills_the_disk_is_stopped() {
    let Some(ground) = ground() else { return };
    let mut settings = ground.settings();
    settings.container_disk_multiple = 1;
    let text = dockerfile("RUN dd if=/dev/zero of=/big bs=1M count=20000\nCMD [\"x\"]");
    let progress: Arc<dyn Progress> = ground.stages.clone();
    let failure = ground
        .builder(settings, &[("Dockerfile", &text)])
        .build(ground.request(), progress)
        .await
        .unwrap_err();
    assert_eq!(failure.code, FailureCode::DiskStorageFull, "{failure}");
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_larger_than_its_disk_is_refused_with_its_size_known() {
    let Some(ground) = ground() else { return };
    let mut request = ground.request();
    request.disk_bytes = 64 << 20;
    let mut settings = ground.settings();
    settings.container_disk_multiple = 100;
    let progress: Arc<dyn Progress> = ground.stages.clone();
    let builder = ground.builder(settings, &[("Dockerfile", &dockerfile("CMD [\"x\"]"))]);
    let failure = builder.build(request, progress).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::DiskStorageFull, "{failure}");
    assert!(ground.stages.code_bytes.lock().unwrap().is_some());
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_nothing_to_start_is_refused() {
    let Some(ground) = ground() else { return };
    let failure = ground
        .build(&[("Dockerfile", &dockerfile("CMD []\nENTRYPOINT []"))])
        .await
        .unwrap_err();
    assert!(
        failure
            .to_string()
            .starts_with("The container image has neither an ENTRYPOINT nor a CMD"),
        "{failure}"
    );
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_removes_what_a_crash_left() {
    let Some(ground) = ground() else { return };
    ground
        .build(&[("Dockerfile", &dockerfile("CMD []\nENTRYPOINT []"))])
        .await
        .unwrap_err();
    ground.buildah(&["from", "--name", "colibri-dead", "scratch"]);
    ground.buildah(&["commit", "colibri-dead", "localhost/colibri/dead"]);
    ground.buildah(&["mount", "colibri-dead"]);
    std::fs::create_dir_all(ground.directory.path().join("builds/dead/context")).unwrap();
    ground.builder(ground.settings(), &[]).sweep().await;
    ground.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_mounts_its_way_out_finds_neither_the_host_nor_other_builds() {
    let Some(ground) = ground() else { return };
    let outside = tempfile::tempdir().unwrap();
    let planted = outside.path().join("planted");
    // CVE-2024-1753 and CVE-2024-9675, as they are known.
    let link = "FROM $BASE AS base\nRUN ln -s / /out\nFROM $BASE\n\
        RUN --mount=type=bind,from=base,source=/out,target=/y,rw=true ls /y\nCMD [\"x\"]";
    let cache = format!(
        "FROM $BASE\nRUN --mount=type=cache,id=../../../../../../..{},target=/x,uid=1000000,gid=1000000 ls /x\nCMD [\"x\"]",
        planted.display()
    );
    for text in [link, cache.as_str()] {
        let text = text.replace("$BASE", BASE);
        let failure = ground.build(&[("Dockerfile", &text)]).await.unwrap_err();
        assert_eq!(failure.code, FailureCode::ContainerBuildFailed);
        assert!(
            failure
                .sentence
                .contains("A RUN instruction of the Dockerfile"),
            "{failure}"
        );
    }
    assert!(!planted.exists());

    // A base image brings its instructions along.
    ground.buildah(&["from", "--name", "trigger", "scratch"]);
    let trigger = "RUN --mount=type=cache,id=../x,target=/x ls";
    ground.buildah(&["config", "--onbuild", trigger, "trigger"]);
    ground.buildah(&[
        "commit",
        "--format",
        "docker",
        "--rm",
        "trigger",
        "localhost/trigger",
    ]);
    let failure = ground
        .build(&[("Dockerfile", "FROM localhost/trigger\nCMD [\"x\"]")])
        .await
        .unwrap_err();
    assert!(
        failure
            .sentence
            .contains("of the base image localhost/trigger"),
        "{failure}"
    );
    ground.buildah(&["rmi", "--force", "localhost/trigger"]);
    ground.assert_nothing_left();
}
