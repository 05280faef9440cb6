using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// The memory that a queue pair's own work requests name by scatter/gather lists. Every piece is checked at every
/// packet: a key that died, or was deregistered, since the request was posted is noticed. Port token held by the
/// caller.
/// </summary>
internal sealed class LocalMemory(RdmaDevice device, ProtectionDomain domain, RegionMemory memory)
{
    private MemoryRegion? _last; // most work requests of a queue pair use one region

    /// <summary>
    /// Gathers <paramref name="destination"/>'s length of bytes from <paramref name="offset"/> on, and checksums them.
    /// </summary>
    /// <param name="sges">At least offset and length long together.</param>
    /// <param name="offset">Where in the list.</param>
    /// <param name="destination">Filled when the outcome is Done.</param>
    /// <param name="icrc">Raw CRC register.</param>
    /// <param name="region">The region that refused.</param>
    public AccessOutcome Gather(
        ReadOnlySpan<Sge> sges, ulong offset, Span<byte> destination, ref uint icrc, out MemoryRegion? region)
    {
        region = null;
        foreach (ref readonly Sge sge in sges)
        {
            if (destination.Length == 0)
            {
                break;
            }

            if (offset >= sge.LengthBytes)
            {
                offset -= sge.LengthBytes;
                continue;
            }

            int length = (int)Math.Min((ulong)destination.Length, sge.LengthBytes - offset);
            AccessOutcome outcome = Find(sge, AccessFlags.None, out region);
            if (outcome == AccessOutcome.Done)
            {
                outcome = memory.Read(region!, sge.Address + offset, destination[..length], ref icrc);
            }

            if (outcome != AccessOutcome.Done)
            {
                return outcome;
            }

            destination = destination[length..];
            offset = 0;
        }

        return AccessOutcome.Done;
    }

    /// <summary>
    /// Opens a run of packets: as <see cref="RegionMemory.TryOpen"/>, for the piece of the list that
    /// <paramref name="offset"/> is in.
    /// </summary>
    public AccessOutcome TryOpen(
        ReadOnlySpan<Sge> sges,
        ulong offset,
        int lengthBytes,
        out ReadOnlySpan<byte> bytes,
        out Translation? translation,
        out MemoryRegion? region)
    {
        bytes = default;
        (translation, region) = (null, null);
        foreach (ref readonly Sge sge in sges)
        {
            if (offset >= sge.LengthBytes)
            {
                offset -= sge.LengthBytes;
                continue;
            }

            int length = (int)Math.Min((ulong)lengthBytes, sge.LengthBytes - offset);
            AccessOutcome outcome = Find(sge, AccessFlags.None, out region);
            return outcome == AccessOutcome.Done
                ? memory.TryOpen(region!, sge.Address + offset, length, out bytes, out translation)
                : outcome;
        }

        return AccessOutcome.Refused;
    }

    /// <summary>As <see cref="RegionMemory.MustStop"/>.</summary>
    public bool MustStop(Translation translation) => memory.MustStop(translation);

    /// <summary>Ends a run.</summary>
    public void Leave(Translation translation) => memory.Leave(translation);

    /// <summary>Scatters bytes to the list from <paramref name="offset"/> on.</summary>
    /// <param name="sges">At least offset and length long together.</param>
    /// <param name="offset">Where in the list.</param>
    /// <param name="bytes">What to write.</param>
    /// <param name="region">The region that refused; the pieces before it are written.</param>
    /// <param name="aheadBytes">As of <see cref="RegionMemory.Write"/>.</param>
    public AccessOutcome Scatter(
        ReadOnlySpan<Sge> sges, ulong offset, ReadOnlySpan<byte> bytes, out MemoryRegion? region, int aheadBytes = 0)
    {
        region = null;
        foreach (ref readonly Sge sge in sges)
        {
            if (bytes.Length == 0)
            {
                break;
            }

            if (offset >= sge.LengthBytes)
            {
                offset -= sge.LengthBytes;
                continue;
            }

            int length = (int)Math.Min((ulong)bytes.Length, sge.LengthBytes - offset);
            AccessOutcome outcome = Find(sge, AccessFlags.LocalWrite, out region);
            if (outcome == AccessOutcome.Done)
            {
                int ahead = (int)Math.Min((ulong)aheadBytes, sge.LengthBytes - offset - (ulong)length);
                outcome = memory.Write(region!, sge.Address + offset, bytes[..length], ahead);
            }

            if (outcome != AccessOutcome.Done)
            {
                return outcome;
            }

            bytes = bytes[length..];
            offset = 0;
        }

        return AccessOutcome.Done;
    }

    /// <summary>
    /// Scatters the packets of a run to the list, as many as lie whole in the piece that <paramref name="offset"/> is
    /// in: perhaps none. As <see cref="RegionMemory.WriteRun"/>.
    /// </summary>
    public AccessOutcome ScatterRun(
        ReadOnlySpan<Sge> sges, ulong offset, ref PacketRun run, out MemoryRegion? region)
    {
        region = null;
        foreach (ref readonly Sge sge in sges)
        {
            if (offset >= sge.LengthBytes)
            {
                offset -= sge.LengthBytes;
                continue;
            }

            run.Limit((int)((sge.LengthBytes - offset) / (uint)run.PayloadBytes));
            AccessOutcome outcome = Find(sge, AccessFlags.LocalWrite, out region);
            return outcome == AccessOutcome.Done ? memory.WriteRun(
                    region!, sge.Address + offset, sge.LengthBytes - offset, ref run)
                : run.TryVerify() ? outcome
                : AccessOutcome.Done;
        }

        run.Limit(0);
        return AccessOutcome.Done;
    }

    private AccessOutcome Find(in Sge sge, AccessFlags need, out MemoryRegion? region)
    {
        // A cached region that was deregistered is dead, so its key is looked up again: the number may name another one
        // by now.
        region = _last;
        if (region is null || region.Key != sge.LKey || region.State == MemoryRegionState.Dead)
        {
            region = _last = device.FindRegion(sge.LKey);
        }

        return region is null || memory.IsDead(region) ? AccessOutcome.Dead
            : memory.Permits(region, domain, need, sge.Address, sge.LengthBytes) ? AccessOutcome.Done
            : AccessOutcome.Refused;
    }
}
