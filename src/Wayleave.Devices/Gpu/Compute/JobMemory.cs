using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// Memory of commands that name buffers: they were parsed and checked before, and each was bound to the addresses of
/// its buffers. A handle that was not bound, and a byte behind a buffer's end, lead nowhere.
/// </summary>
internal sealed class ParsedMemory(DmaPort port, (uint Handle, DmaAddressList Addresses)[] buffers) : IGpuMemory
{
    public void Rebind(GpuBinding binding, DmaAddressList addresses)
    {
        for (int i = 0; i < buffers.Length; i++)
        {
            if (buffers[i].Handle == binding.Handle)
            {
                buffers[i].Addresses = addresses;
            }
        }
    }

    public Errno TryRead(in GpuOperand operand, ulong offset, int length, out ReadOnlySpan<byte> bytes)
    {
        bytes = default;
        return TryLocate(operand, offset, ref length, out DeviceAddress address)
            ? port.TryRead(address, length, out bytes)
            : Errno.EFAULT;
    }

    public Errno TryWrite(in GpuOperand operand, ulong offset, int length, out Span<byte> bytes)
    {
        bytes = default;
        return TryLocate(operand, offset, ref length, out DeviceAddress address)
            ? port.TryWrite(address, length, out bytes)
            : Errno.EFAULT;
    }

    private bool TryLocate(in GpuOperand operand, ulong offset, ref int length, out DeviceAddress address)
    {
        for (int i = 0; i < buffers.Length; i++)
        {
            if (buffers[i].Handle == operand.Handle)
            {
                bool isThere = buffers[i].Addresses.TryLocate(
                    operand.Address + offset, out address, out ulong contiguous);
                length = (int)Math.Min((ulong)length, contiguous);
                return isThere;
            }
        }

        address = default;
        return false;
    }
}

/// <summary>What a touch of a queue that may fault did not find.</summary>
internal readonly record struct MissingEntry(MirrorBinding Mirror, ulong Offset, bool IsWrite);

/// <summary>Memory of commands that name addresses of their process: the page table decides at every touch.</summary>
internal sealed class PagedMemory(DmaPort port, GpuPageTable table) : IGpuMemory
{
    /// <summary>The last touch that found no entry, until it is taken.</summary>
    private MissingEntry? _missing;

    public GpuPageTable Table => table;

    /// <summary>What has to be faulted in before the block can run; false when nothing has.</summary>
    public bool TryTakeMissing(out MissingEntry missing)
    {
        (missing, bool isThere) = (_missing.GetValueOrDefault(), _missing.HasValue);
        _missing = null;
        return isThere;
    }

    public Errno TryRead(in GpuOperand operand, ulong offset, int length, out ReadOnlySpan<byte> bytes)
    {
        bytes = default;
        Errno errno = TryTranslate(
            operand.Address + offset, GpuAccess.Read, out DeviceAddress address, out ulong contiguous);
        return errno == Errno.Success
            ? port.TryRead(address, (int)Math.Min((ulong)length, contiguous), out bytes)
            : errno;
    }

    public Errno TryWrite(in GpuOperand operand, ulong offset, int length, out Span<byte> bytes)
    {
        bytes = default;
        Errno errno = TryTranslate(
            operand.Address + offset, GpuAccess.Write, out DeviceAddress address, out ulong contiguous);
        return errno == Errno.Success
            ? port.TryWrite(address, (int)Math.Min((ulong)length, contiguous), out bytes)
            : errno;
    }

    public void Rebind(GpuBinding binding, DmaAddressList addresses) => table.Rebind(binding, addresses);

    private Errno TryTranslate(
        ulong address, GpuAccess access, out DeviceAddress found, out ulong contiguousBytes)
    {
        Errno errno = table.TryTranslate(
            address, access, out found, out contiguousBytes, out (MirrorBinding Mirror, ulong Offset)? missing);
        if (missing is { } touched)
        {
            _missing = new MissingEntry(touched.Mirror, touched.Offset, (access & GpuAccess.Write) != 0);
        }

        return errno;
    }
}
