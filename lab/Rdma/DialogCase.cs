using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Rdma;

/// <summary>One dialog between two of the kernel's devices.</summary>
/// <param name="Name">Of the capture.</param>
/// <param name="Play">Posts, waits, and says what is wrong with the bytes, or null.</param>
internal sealed record DialogCase(string Name, Func<RxePair, string?> Play)
{
    public int Type { get; init; } = Verbs.QpTypeRc;

    /// <summary>Path MTU in bytes.</summary>
    public int Mtu { get; init; } = 1024;

    public bool IsIpv6 { get; init; }

    /// <summary>First PSN of A.</summary>
    public uint Psn { get; init; } = RxePair.PsnA;

    /// <summary>What B's queue pair allows.</summary>
    public int Access { get; init; } = Verbs.AccessRemote;
}
