using System.Runtime.InteropServices;

namespace Wayleave.Linux.Interop;

// <sys/syscall.h>: the only numbers that differ between architectures
internal static class unistd
{
    internal static readonly int SYS_futex = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 => 202,
        Architecture.Arm64 or Architecture.RiscV64 or Architecture.LoongArch64 => 98,
        Architecture other =>
            throw new PlatformNotSupportedException($"the number of futex(2) on {other} is not known here"),
    };

    internal static readonly int SYS_userfaultfd = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 => 323,
        Architecture.Arm64 or Architecture.RiscV64 or Architecture.LoongArch64 => 282,
        Architecture other =>
            throw new PlatformNotSupportedException($"the number of userfaultfd(2) on {other} is not known here"),
    };

    internal static readonly int SYS_bpf = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 => 321,
        Architecture.Arm64 or Architecture.RiscV64 or Architecture.LoongArch64 => 280,
        Architecture other =>
            throw new PlatformNotSupportedException($"the number of bpf(2) on {other} is not known here"),
    };

    internal static readonly int SYS_pidfd_send_signal = 424; // likewise

    internal static readonly int SYS_pidfd_getfd = 438; // likewise

    internal static readonly int SYS_pidfd_open = 434; // one number on every architecture since Linux 5.1
}
