using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Tests.AddressSpaces;

/// <summary>
/// Reads and writes of a device, as the ioctls of the kernel's <c>test_hmm</c>: what its table has; for what it lacks,
/// one fault over the rest of the range.
/// </summary>
internal static class DeviceAccess
{
    public static Errno TryRead(this SimulatedMirror mirror, ulong address, byte[] bytes) =>
        Run(mirror, address, bytes, isWrite: false);

    public static Errno TryWrite(this SimulatedMirror mirror, ulong address, byte[] bytes) =>
        Run(mirror, address, bytes, isWrite: true);

    private static Errno Run(SimulatedMirror mirror, ulong address, byte[] bytes, bool isWrite)
    {
        for (int done = 0; done < bytes.Length;)
        {
            ulong at = address + (ulong)done;
            int part = Math.Min(bytes.Length - done, PageFrame.SizeBytes - (int)(at % PageFrame.SizeBytes));
            if (mirror.TryEnter(at, isWrite, out SimulatedMirror.Access? access))
            {
                Span<byte> window = bytes.AsSpan(done, part);
                mirror.Exit(access!, isWrite ? default : window, isWrite ? window : default);
                done += part;
                continue;
            }

            const ulong Mask = PageFrame.SizeBytes - 1;
            ulong first = at & ~Mask, end = (address + (ulong)bytes.Length + Mask) & ~Mask;
            SpaceOperation fault = mirror.Fault(new AddressRange(first, end - first), isWrite);
            if (!fault.Proceed())
            {
                throw new InvalidOperationException($"the device waits at '{fault.Next}'");
            }

            if (fault.Errno != Errno.Success)
            {
                return fault.Errno;
            }
        }

        return Errno.Success;
    }
}
