using Wayleave.Core;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Linux;

namespace Wayleave.Ibverbs;

/// <summary>The program's memory, by the kernel's word for what is there. Runs under the port token.</summary>
internal sealed class OwnPages : IUnpinnedMemory
{
    private readonly int _process = Environment.ProcessId;

    private OwnPages()
    {
    }

    /// <summary>Null where the kernel does not let a process do that, as some sandboxes do not.</summary>
    public static OwnPages? Instance { get; } = TryMake();

    public Errno TryRead(ulong address, Span<byte> target) => ProcessMemory.Read(_process, (nuint)address, target);

    public Errno TryWrite(ulong address, ReadOnlySpan<byte> source) =>
        ProcessMemory.Write(_process, (nuint)address, source);

    private static unsafe OwnPages? TryMake()
    {
        OwnPages made = new();
        byte from = 1, to = 0;
        bool isAllowed = made.TryRead((ulong)&from, new Span<byte>(&to, 1)) == Errno.Success && to == from;
        return isAllowed ? made : null;
    }
}
