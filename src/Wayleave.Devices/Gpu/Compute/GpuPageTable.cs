using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>One range of a process's GPU addresses.</summary>
/// <param name="Start">Whole pages.</param>
/// <param name="LengthBytes">Whole pages.</param>
/// <param name="Binding">The buffer behind it.</param>
/// <param name="Offset">Of its first byte in the buffer.</param>
/// <param name="Access">What commands may do there.</param>
public sealed record GpuMapping(ulong Start, ulong LengthBytes, GpuBinding Binding, ulong Offset, GpuAccess Access);

/// <summary>
/// What a process's addresses lead to, as it was when a job was submitted: immutable, so that the engine reads it
/// without a lock and a later change is for later jobs.
/// </summary>
internal sealed class GpuPageTable
{
    private readonly GpuMapping[] _mappings; // by address; they never overlap
    private readonly DmaAddressList[] _addresses;

    public GpuPageTable(GpuMapping[] mappings, DmaAddressList[] addresses) =>
        (_mappings, _addresses) = (mappings, addresses);

    /// <summary>Where one address leads, and how far from there on in one piece.</summary>
    /// <returns>
    /// <see cref="Errno.EFAULT"/> where nothing is mapped, <see cref="Errno.EACCES"/> without the right.
    /// </returns>
    public Errno TryTranslate(
        ulong address, GpuAccess access, out DeviceAddress found, out ulong contiguousBytes)
    {
        (found, contiguousBytes) = (default, 0);
        int index = Find(address);
        if (index < 0)
        {
            return Errno.EFAULT;
        }

        GpuMapping mapping = _mappings[index];
        if ((mapping.Access & access) != access)
        {
            return Errno.EACCES;
        }

        ulong within = address - mapping.Start;
        if (!_addresses[index].TryLocate(mapping.Offset + within, out found, out contiguousBytes))
        {
            return Errno.EFAULT;
        }

        contiguousBytes = Math.Min(contiguousBytes, mapping.LengthBytes - within);
        return Errno.Success;
    }

    private int Find(ulong address)
    {
        int low = 0;
        for (int high = _mappings.Length - 1; low <= high;)
        {
            int middle = (low + high) / 2;
            GpuMapping mapping = _mappings[middle];
            if (address < mapping.Start)
            {
                high = middle - 1;
            }
            else if (address - mapping.Start >= mapping.LengthBytes)
            {
                low = middle + 1;
            }
            else
            {
                return middle;
            }
        }

        return -1;
    }
}
