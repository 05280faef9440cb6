using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>What became of one access to a region.</summary>
internal enum AccessOutcome
{
    Done,

    /// <summary>The region is invalidated: map it, then try again.</summary>
    Faulted,

    /// <summary>The key is dead, or names nothing.</summary>
    Dead,

    /// <summary>Out of range, without the right, or of another domain.</summary>
    Refused,

    /// <summary>Nothing answers at the bus address.</summary>
    Aborted,

    /// <summary>What should be atomic is not where it could be.</summary>
    Misaligned,
}

// The one place where the RDMA data path touches memory. The sequence is that of architecture.md, Moving and taking
// back: read the translation, enter its gate, copy one packet, leave. A sender's run of packets from one piece of
// memory stays inside for one super-packet, 64 KiB at most, and looks at the gate before every packet. Of a run that is
// placed every packet enters, and only where a translation leads is remembered: it never changes, so a packet that
// finds the same one, inside its gate, finds the same place. Nothing is remembered from one run to the next.

/// <summary>Copies packets in and out of regions. Port token held by the caller.</summary>
internal sealed class RegionMemory(
    DmaPort dma, ResponderDefences defences, MemoryHint? willWrite = null, ulong cachedBytes = 0)
{
    // What somebody who takes memory back may have to wait for (architecture.md, Locks and their order).
    private const int BlockBytes = 64 << 10;

    /// <summary>Places a packet. Range and rights were checked for its whole message.</summary>
    /// <param name="region">Whose memory it is.</param>
    /// <param name="address">Of the first byte.</param>
    /// <param name="bytes">The payload.</param>
    /// <param name="aheadBytes">
    /// What the message will place behind it next: the processor is told, so that it has the lines when the packet has
    /// been checked.
    /// </param>
    /// <param name="psn">Of the packet, where a peer writes; null for what this end has asked for.</param>
    public AccessOutcome Write(
        MemoryRegion region, ulong address, ReadOnlySpan<byte> bytes, int aheadBytes = 0, uint? psn = null)
    {
        if (!TryEnter(region, out Translation? translation))
        {
            return WhyRefused(region);
        }

        ulong offset = region.Offset + (address - region.Iova);
        AccessOutcome outcome = WriteInside(region, translation, offset, bytes, aheadBytes, out _);
        if (outcome == AccessOutcome.Done)
        {
            NotePlaced(region, bytes.Length, psn);
        }

        Leave(translation);
        return outcome;
    }

    /// <summary>
    /// Places the packets of a run one behind the other, each as <see cref="Write"/> does. Ends with
    /// <see cref="AccessOutcome.Done"/> when all are placed, or the next one is not to be: the run says why.
    /// </summary>
    /// <param name="region">Whose memory it is. Range and rights were checked for all of them.</param>
    /// <param name="address">Of the first byte of the first.</param>
    /// <param name="lengthBytes">What the message places from there on, more than the run.</param>
    /// <param name="run">Counts those that were placed; another outcome is that of the one behind them.</param>
    /// <param name="target">What the message's first packet found.</param>
    /// <param name="psn">Of the first, where peers write; null for what this end has asked for.</param>
    public AccessOutcome WriteRun(
        MemoryRegion region,
        ulong address,
        ulong lengthBytes,
        ref PacketRun run,
        in RemoteTarget target = default,
        uint? psn = null)
    {
        AccessOutcome outcome = AccessOutcome.Done;
        bool isCached = region.LengthBytes <= cachedBytes;
        ulong offset = region.Offset + (address - region.Iova);
        ulong end = offset + lengthBytes;
        Translation? known = null;
        DmaRest rest = default;
        while (outcome == AccessOutcome.Done && run.TryVerify())
        {
            if (!MayGoOn(target))
            {
                return AccessOutcome.Refused;
            }

            if (!TryEnter(region, out Translation? translation))
            {
                return WhyRefused(region);
            }

            int aheadBytes = AheadOf(offset, end, run.PayloadBytes);
            bool isSamePlace = ReferenceEquals(translation, known) || (known is not null && !defences.ForgetsPlaces);
            if (isSamePlace && dma.TryWriteNext(ref rest, run.PayloadBytes, out Span<byte> span))
            {
                if (isCached)
                {
                    run.CopyAndCheckNext(span);
                }
                else
                {
                    run.Payload.CopyTo(span);
                    if (aheadBytes != 0)
                    {
                        willWrite?.Invoke(rest.Ahead(aheadBytes));
                    }
                }
            }
            else
            {
                known = translation;
                outcome = WriteInside(region, translation, offset, run.Payload, aheadBytes, out rest);
            }

            if (outcome == AccessOutcome.Done)
            {
                NotePlaced(region, run.PayloadBytes, psn is { } first ? Psn.Add(first, (uint)run.Placed) : null);
                run.NotePlaced();
                offset += (ulong)run.PayloadBytes;
            }

            Leave(translation);
            Interleave.Point("rdma: between packets");
        }

        return outcome;
    }

    // Inside the gate: whoever finds it drained finds this too.
    private static void NotePlaced(MemoryRegion region, int payloadBytes, uint? psn)
    {
        if (psn is { } placed)
        {
            region.BytesPlaced += payloadBytes;
            region.LastPlacedPsn = placed;
        }
    }

    private static int AheadOf(ulong offset, ulong end, int payloadBytes) =>
        (int)Math.Min(end - offset - (ulong)payloadBytes, (ulong)payloadBytes);

    // One packet, in as many pieces as there are.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private AccessOutcome WriteInside(
        MemoryRegion region,
        Translation translation,
        ulong offset,
        ReadOnlySpan<byte> bytes,
        int aheadBytes,
        out DmaRest rest)
    {
        rest = default;
        while (bytes.Length > 0)
        {
            if (!(translation.Writable ?? translation.Addresses).TryLocate(
                    offset, out DeviceAddress target, out ulong contiguous)
                || PageHole.Is(target)
                || dma.TryWrite(
                    target, Clamp(contiguous, bytes.Length), contiguous, out Span<byte> span, out rest) != 0)
            {
                return PageHole.Is(target) && region.Backing is UnpinnedBacking unpinned
                    ? unpinned.Write(offset, bytes)
                    : Miss(region, target, offset, bytes.Length, isWrite: true);
            }

            bytes[..span.Length].CopyTo(span);
            if (aheadBytes != 0 && region.LengthBytes > cachedBytes)
            {
                willWrite?.Invoke(rest.Ahead(aheadBytes));
            }

            bytes = bytes[span.Length..];
            offset += (ulong)span.Length;
        }

        return AccessOutcome.Done;
    }

    /// <summary>
    /// Swaps eight bytes, a number in the host's byte order, if they hold what was expected. One step for everybody who
    /// shares the memory, other devices and the host's processors included.
    /// </summary>
    public AccessOutcome CompareSwap(
        MemoryRegion region, ulong address, ulong expected, ulong desired, out ulong original)
    {
        AccessOutcome outcome = TryOpenWord(region, address, out Span<ulong> word, out Translation? translation);
        original = outcome == AccessOutcome.Done ? Interlocked.CompareExchange(ref word[0], desired, expected) : 0;
        LeaveIfEntered(translation);
        return outcome;
    }

    /// <summary>Adds to eight bytes, modulo 2^64. As <see cref="CompareSwap"/>.</summary>
    public AccessOutcome FetchAdd(MemoryRegion region, ulong address, ulong addend, out ulong original)
    {
        AccessOutcome outcome = TryOpenWord(region, address, out Span<ulong> word, out Translation? translation);
        original = outcome == AccessOutcome.Done ? Interlocked.Add(ref word[0], addend) - addend : 0;
        LeaveIfEntered(translation);
        return outcome;
    }

    /// <summary>Places eight bytes in one store: nobody sees some of them without the others.</summary>
    public AccessOutcome WriteAtomic(MemoryRegion region, ulong address, ReadOnlySpan<byte> bytes)
    {
        AccessOutcome outcome = TryOpenWord(region, address, out Span<ulong> word, out Translation? translation);
        if (outcome == AccessOutcome.Done)
        {
            Volatile.Write(ref word[0], MemoryMarshal.Read<ulong>(bytes));
        }

        LeaveIfEntered(translation);
        return outcome;
    }

    /// <summary>
    /// Makes everything placed before visible to all (the barrier), and lasting if <paramref name="persist"/> is given:
    /// block by block, each inside the gate.
    /// </summary>
    public AccessOutcome Flush(MemoryRegion region, ulong address, ulong lengthBytes, MemoryPersist? persist)
    {
        Interlocked.MemoryBarrier();
        AccessOutcome outcome = AccessOutcome.Done;
        for (ulong done = 0; persist is not null && done < lengthBytes && outcome == AccessOutcome.Done;)
        {
            int wanted = (int)Math.Min(lengthBytes - done, BlockBytes);
            outcome = TryOpen(region, address + done, wanted, out ReadOnlySpan<byte> bytes, out Translation? entered);
            if (entered is not null)
            {
                outcome = persist(bytes) == Errno.Success ? outcome : AccessOutcome.Aborted;
                done += (ulong)bytes.Length;
                Leave(entered);
            }
        }

        return outcome;
    }

    /// <summary>Copies a packet's payload out and feeds it to the checksum in the same pass.</summary>
    public AccessOutcome Read(MemoryRegion region, ulong address, Span<byte> destination, ref uint icrc)
    {
        if (!TryEnter(region, out Translation? translation))
        {
            return WhyRefused(region);
        }

        AccessOutcome outcome = AccessOutcome.Done;
        ulong offset = region.Offset + (address - region.Iova);
        while (destination.Length > 0)
        {
            if (!translation.Addresses.TryLocate(offset, out DeviceAddress source, out ulong contiguous)
                || PageHole.Is(source)
                || dma.TryRead(source, Clamp(contiguous, destination.Length), out ReadOnlySpan<byte> span) != 0)
            {
                if (PageHole.Is(source) && region.Backing is UnpinnedBacking unpinned)
                {
                    outcome = unpinned.Read(offset, destination);
                    icrc = Icrc.Append(icrc, destination);
                }
                else
                {
                    outcome = Miss(region, source, offset, destination.Length, isWrite: false);
                }

                break;
            }

            icrc = Icrc.AppendCopy(icrc, span, destination);
            destination = destination[span.Length..];
            offset += (ulong)span.Length;
        }

        Leave(translation);
        return outcome;
    }

    /// <summary>
    /// Opens a run of packets from one piece of memory: enters the gate once, for at most one super-packet. After Done
    /// the caller looks at the gate before every further packet, stops when it was closed, and ends with
    /// <see cref="Leave"/>.
    /// </summary>
    /// <param name="region">Key, range and rights were checked.</param>
    /// <param name="address">Of the first byte.</param>
    /// <param name="lengthBytes">How much the caller would read.</param>
    /// <param name="bytes">As much of it as lies in one piece, 64 KiB at most; used only until Leave.</param>
    /// <param name="translation">What to look at and to leave; null unless the outcome is Done.</param>
    public AccessOutcome TryOpen(
        MemoryRegion region, ulong address, int lengthBytes, out ReadOnlySpan<byte> bytes, out Translation? translation)
    {
        bytes = default;
        if (!TryEnter(region, out translation))
        {
            translation = null;
            return WhyRefused(region);
        }

        ulong offset = region.Offset + (address - region.Iova);
        int length = Math.Min(lengthBytes, BlockBytes);
        if (translation.Addresses.TryLocate(offset, out DeviceAddress source, out ulong contiguous)
            && !PageHole.Is(source)
            && dma.TryRead(source, Clamp(contiguous, length), out bytes) == Errno.Success)
        {
            return AccessOutcome.Done;
        }

        if (PageHole.Is(source) && region.Backing is UnpinnedBacking unpinned)
        {
            AccessOutcome outcome = unpinned.TryOpen(offset, length, out bytes);
            if (outcome == AccessOutcome.Done)
            {
                return AccessOutcome.Done;
            }

            Leave(translation);
            translation = null;
            return outcome;
        }

        Leave(translation);
        translation = null;
        return Miss(region, source, offset, length, isWrite: false);
    }

    /// <summary>Whether a run has to end: asked before each of its packets but the first.</summary>
    public bool MustStop(Translation translation) => defences.EndsRuns && translation.Gate.IsClosed;

    /// <summary>Whether a message may go on where its first packet began. Asked for every packet.</summary>
    public bool MayGoOn(in RemoteTarget target) => target.IsBound || !defences.ChecksWindowPerPacket;

    /// <summary>Whether a key may still be used at all. The port asks before it looks at ranges.</summary>
    public bool IsDead(MemoryRegion region) => region.State == MemoryRegionState.Dead && defences.RefusesDeadKeys;

    public bool Permits(
        MemoryRegion region, ProtectionDomain domain, AccessFlags need, ulong address, ulong lengthBytes) =>
        !defences.ChecksRange || region.Permits(domain, need, address, lengthBytes);

    private static int Clamp(ulong contiguous, int wanted) => (int)Math.Min((ulong)wanted, contiguous);

    // The address is a multiple of eight in the terms of the region and, since regions begin where pages do, in memory.
    private AccessOutcome TryOpenWord(
        MemoryRegion region, ulong address, out Span<ulong> word, out Translation? translation)
    {
        word = default;
        if (!TryEnter(region, out translation))
        {
            translation = null;
            return WhyRefused(region);
        }

        ulong offset = region.Offset + (address - region.Iova);
        bool isThere = (translation.Writable ?? translation.Addresses).TryLocate(
                offset, out DeviceAddress target, out ulong contiguous)
            && !PageHole.Is(target);
        if (isThere && target.Value % sizeof(ulong) != 0)
        {
            return AccessOutcome.Misaligned;
        }

        Span<byte> bytes = default;
        bool isReached = isThere
            && contiguous >= sizeof(ulong)
            && dma.TryWrite(target, sizeof(ulong), out bytes) == Errno.Success
            && bytes.Length >= sizeof(ulong);
        if (!isReached)
        {
            return Miss(region, target, offset, sizeof(ulong), isWrite: true);
        }

        word = MemoryMarshal.Cast<byte, ulong>(bytes);
        return AccessOutcome.Done;
    }

    private void LeaveIfEntered(Translation? translation)
    {
        if (translation is not null)
        {
            Leave(translation);
        }
    }

    private bool TryEnter(MemoryRegion region, [NotNullWhen(true)] out Translation? translation)
    {
        translation = defences.ReadsTranslationPerPacket ? region.Current : region.FirstTranslation;
        Interleave.Point("rdma: translation read");
        while (translation is not null && defences.EntersGate && !translation.Gate.TryEnter())
        {
            // Of memory paged on demand a page was taken, and the rest is in the next translation already.
            Translation? next = region.Backing is null ? null : region.Current;
            translation = ReferenceEquals(next, translation) ? null : next;
        }

        return translation is not null;
    }

    // Nothing answers; or nothing can, because the page is not here: then the address is none that a bus has.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static AccessOutcome Miss(
        MemoryRegion region, DeviceAddress address, ulong offset, int lengthBytes, bool isWrite)
    {
        if (!PageHole.Is(address) || region.Backing is not { } backing)
        {
            return AccessOutcome.Aborted;
        }

        // A word of a page that may go away meanwhile cannot be swapped.
        if (backing is UnpinnedBacking || backing.TryTakeRefusal(offset))
        {
            return AccessOutcome.Refused;
        }

        backing.NoteMiss(new PageMiss(offset, lengthBytes, isWrite));
        return AccessOutcome.Faulted;
    }

    /// <summary>
    /// Leaves the gate of a translation that was entered; the last one out of a closed gate reports it.
    /// </summary>
    public void Leave(Translation translation)
    {
        Interleave.Point("rdma: copied");
        if (defences.EntersGate)
        {
            translation.Gate.Exit();
        }
    }

    // The state was changed before the gate was closed, so whoever was refused sees why.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static AccessOutcome WhyRefused(MemoryRegion region) =>
        region.State == MemoryRegionState.Dead ? AccessOutcome.Dead
        : region.TryTakeMapRefusal() ? AccessOutcome.Refused
        : AccessOutcome.Faulted;
}
