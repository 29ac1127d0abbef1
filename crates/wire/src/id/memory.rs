//! Sizes of MicroVMs (specification, section 18): one choice, the baseline memory, gives all else.

/// Baseline memory of a MicroVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemorySize {
    /// 512 MiB
    Mib512,
    /// 1024 MiB
    Mib1024,
    /// 2048 MiB
    Mib2048,
    /// 4096 MiB
    Mib4096,
    /// 8192 MiB
    Mib8192,
}

impl MemorySize {
    /// Every size, smallest first.
    pub const ALL: [Self; 5] = [
        Self::Mib512,
        Self::Mib1024,
        Self::Mib2048,
        Self::Mib4096,
        Self::Mib8192,
    ];
    /// The size of an image that asks for none.
    pub const DEFAULT: Self = Self::Mib2048;

    /// The size of exactly this baseline, MiB.
    #[must_use]
    pub fn of_baseline_mib(mib: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|size| i64::from(size.baseline_mib()) == i64::from(mib))
    }

    /// Baseline memory, MiB: what quotas count.
    #[must_use]
    pub fn baseline_mib(self) -> u32 {
        match self {
            Self::Mib512 => 512,
            Self::Mib1024 => 1024,
            Self::Mib2048 => 2048,
            Self::Mib4096 => 4096,
            Self::Mib8192 => 8192,
        }
    }

    /// Memory that the guest sees, MiB: four times the baseline.
    #[must_use]
    pub fn guest_memory_mib(self) -> u32 {
        self.baseline_mib() * 4
    }

    /// Virtual CPUs that the guest sees.
    #[must_use]
    pub fn vcpus(self) -> u8 {
        match self {
            Self::Mib512 => 1,
            Self::Mib1024 => 2,
            Self::Mib2048 => 4,
            Self::Mib4096 => 8,
            Self::Mib8192 => 16,
        }
    }

    /// Size of the root disk, bytes.
    #[must_use]
    pub fn disk_bytes(self) -> u64 {
        let gib = match self {
            Self::Mib512 | Self::Mib1024 | Self::Mib2048 => 8,
            Self::Mib4096 => 16,
            Self::Mib8192 => 32,
        };
        gib << 30
    }
}

#[cfg(test)]
mod tests {
    use super::MemorySize;

    #[test]
    fn sizes_between_the_offered_ones_do_not_exist() {
        assert_eq!(MemorySize::of_baseline_mib(2048), Some(MemorySize::Mib2048));
        for mib in [-512, 0, 256, 3072, 10_240, 16_384, i32::MAX] {
            assert_eq!(MemorySize::of_baseline_mib(mib), None);
        }
        for size in MemorySize::ALL {
            assert_eq!(size.guest_memory_mib(), u32::from(size.vcpus()) * 2048);
        }
    }
}
