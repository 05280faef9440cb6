using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>One range of a process's GPU addresses.</summary>
/// <param name="Start">Whole pages.</param>
/// <param name="LengthBytes">Whole pages, or whole words up to the end of the buffer.</param>
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
    private readonly MirrorBinding[] _mirrors; // of the mappings, each once

    public GpuPageTable(GpuMapping[] mappings, DmaAddressList[] addresses)
    {
        (_mappings, _addresses) = (mappings, addresses);
        _mirrors = [.. mappings.Select(m => m.Binding).OfType<MirrorBinding>().Distinct()];
    }

    /// <summary>How many ranges of it are filled by faults.</summary>
    public int MirrorCount => _mirrors.Length;

    /// <summary>
    /// Before a block: what the engine finds in the ranges that are filled by faults stays until <see cref="Exit"/>.
    /// </summary>
    /// <param name="gates">Room for <see cref="MirrorCount"/>; the engine's until then.</param>
    public void Enter(Span<InFlightGate?> gates)
    {
        for (int i = 0; i < _mirrors.Length; i++)
        {
            gates[i] = _mirrors[i].Enter();
        }
    }

    /// <summary>After a block. The last one out of a closed gate takes the host lock.</summary>
    public static void Exit(Span<InFlightGate?> gates)
    {
        foreach (ref InFlightGate? gate in gates)
        {
            gate?.Exit();
            gate = null;
        }
    }

    /// <summary>A range that was looked up anew is where the job finds it from now on. No block is under way.</summary>
    public void Rebind(GpuBinding binding, DmaAddressList addresses)
    {
        for (int i = 0; i < _mappings.Length; i++)
        {
            if (_mappings[i].Binding == binding)
            {
                _addresses[i] = addresses;
            }
        }
    }

    /// <summary>Where one address leads, and how far from there on in one piece.</summary>
    /// <param name="address">Of the process.</param>
    /// <param name="access">How it is touched.</param>
    /// <param name="found">As the engine's port takes it.</param>
    /// <param name="contiguousBytes">From there on.</param>
    /// <param name="missing">With EAGAIN, what has to serve the fault.</param>
    /// <returns>
    /// <see cref="Errno.EFAULT"/> where nothing is mapped, <see cref="Errno.EACCES"/> without the right,
    /// <see cref="Errno.EAGAIN"/> where a fault is needed first.
    /// </returns>
    public Errno TryTranslate(
        ulong address,
        GpuAccess access,
        out DeviceAddress found,
        out ulong contiguousBytes,
        out (MirrorBinding Mirror, ulong Offset)? missing)
    {
        (found, contiguousBytes, missing) = (default, 0, null);
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
        if (mapping.Binding is MirrorBinding mirror)
        {
            Errno errno = mirror.TryTranslate(mapping.Offset + within, access, out found, out contiguousBytes);
            if (errno != Errno.Success)
            {
                missing = (mirror, mapping.Offset + within);
                return errno;
            }
        }
        else if (!_addresses[index].TryLocate(mapping.Offset + within, out found, out contiguousBytes))
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
