using Wayleave.Core.Fences;

namespace Wayleave.Core.Retirement;

/// <summary>
/// How much memory an owner lets be kept from it before it lends no more. The limits do not empty a quarantine, nothing
/// but evidence does that; they bound how much somebody who does not give memory back can keep.
/// </summary>
public sealed record QuarantineLimits
{
    /// <summary>Bytes of all overdue entries.</summary>
    public ulong BytesMax { get; init; } = ulong.MaxValue;

    /// <summary>Overdue entries.</summary>
    public int EntriesMax { get; init; } = int.MaxValue;

    /// <summary>Bytes of the overdue entries that one holder has a part in.</summary>
    public ulong BytesPerHolderMax { get; init; } = ulong.MaxValue;
}

/// <summary>
/// Memory that its owner took back and that may still be in use. It is counted and never given out on time alone: an
/// entry leaves when every revoke that it waits for has retired. Host lock held by the caller.
/// </summary>
public sealed class Quarantine
{
    private readonly HostContext _host;
    private readonly List<QuarantineEntry> _entries = [];

    /// <param name="host">The host whose memory it is.</param>
    /// <param name="limits">Null means none.</param>
    public Quarantine(HostContext host, QuarantineLimits? limits = null) =>
        (_host, Limits) = (host, limits ?? new QuarantineLimits());

    public QuarantineLimits Limits { get; }

    /// <summary>In the order they came.</summary>
    public IReadOnlyList<QuarantineEntry> Entries => _entries;

    /// <summary>Bytes that are neither in use nor free.</summary>
    public ulong Bytes { get; private set; }

    /// <summary>Those of them whose owner has stopped waiting.</summary>
    public ulong OverdueBytes
    {
        get
        {
            ulong bytes = 0;
            foreach (QuarantineEntry entry in _entries)
            {
                bytes += entry.State == QuarantineState.Overdue ? entry.Bytes : 0;
            }

            return bytes;
        }
    }

    /// <summary>
    /// Gives memory back as soon as <paramref name="operation"/> retires: at once, or later from quarantine.
    /// </summary>
    /// <param name="operation">The revoke whose proof is awaited.</param>
    /// <param name="name">For people: <c>gpu0 vram 0x100000+0x200000</c>.</param>
    /// <param name="bytes">How much memory.</param>
    /// <param name="release">Runs once, with the host lock held; from then on the memory may have a new owner.</param>
    /// <returns>The entry, or null when the memory was released at once.</returns>
    /// <exception cref="InvalidOperationException">
    /// The proof is about an earlier life of the buffer, which has been mapped again since.
    /// </exception>
    public QuarantineEntry? Hold(RevokeOperation operation, string name, ulong bytes, Action release)
    {
        _host.AssertHeld();
        RequireCurrent(operation);
        if (operation.State == RevokeState.Retired)
        {
            release();
            return null;
        }

        QuarantineEntry entry = Add([], name, bytes, release);
        entry.Add(operation);
        Watch(operation, entry);
        return entry;
    }

    /// <summary>
    /// As above, for memory that no revoke is about, the old place of a move: it is released when the owners of all
    /// <paramref name="work"/> have said that it has ended. That a fence is signalled is not enough.
    /// </summary>
    public QuarantineEntry? Hold(IReadOnlyList<Fence> work, string name, ulong bytes, Action release)
    {
        _host.AssertHeld();
        if (work.All(f => f.HasEnded))
        {
            release();
            return null;
        }

        QuarantineEntry entry = Add(work, name, bytes, release);
        Watch(entry);
        return entry;
    }

    /// <summary>
    /// Makes an entry wait for one more revoke of the same buffer: a second owner asked for more than the first. It
    /// asks for less in vain.
    /// </summary>
    /// <exception cref="InvalidOperationException">
    /// The memory is released, or the operation is of another buffer.
    /// </exception>
    public void HoldAlso(QuarantineEntry entry, RevokeOperation operation)
    {
        _host.AssertHeld();
        RequireCurrent(operation);
        if (entry.State == QuarantineState.Released || !ReferenceEquals(entry.Operation?.Buffer, operation.Buffer))
        {
            throw new InvalidOperationException($"{entry.Name} does not wait for a revoke of {operation.Buffer}");
        }

        if (operation.State != RevokeState.Retired)
        {
            entry.Add(operation);
            Watch(operation, entry);
        }
    }

    /// <summary>
    /// The overdue bytes that somebody has a part in: memory that is free when it gives its evidence.
    /// </summary>
    public ulong BytesHeldBy(string holder)
    {
        _host.AssertHeld();
        ulong bytes = 0;
        foreach (QuarantineEntry entry in _entries)
        {
            bytes += entry.State == QuarantineState.Overdue && entry.IsHeldBy(holder) ? entry.Bytes : 0;
        }

        return bytes;
    }

    /// <summary>
    /// Whether <paramref name="holder"/> may be lent more. An exporter asks before it lets somebody attach.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EDQUOT"/> when this holder keeps as much as a holder may; <see cref="Errno.ENOBUFS"/> when all
    /// together keep as much as there may be.
    /// </returns>
    public Errno TryAdmit(string holder)
    {
        _host.AssertHeld();
        if (_entries.Count == 0)
        {
            return Errno.Success;
        }

        Errno errno = BytesHeldBy(holder) >= Limits.BytesPerHolderMax ? Errno.EDQUOT
            : OverdueBytes >= Limits.BytesMax || OverdueCount() >= Limits.EntriesMax ? Errno.ENOBUFS
            : Errno.Success;
        if (errno != Errno.Success)
        {
            _host.Trace("quarantine.refused", holder, (long)errno, (long)OverdueBytes);
        }

        return errno;
    }

    private static void RequireCurrent(RevokeOperation operation)
    {
        if (!operation.IsCurrent)
        {
            throw new InvalidOperationException(
                $"the revoke is of an earlier life of {operation.Buffer}; take it back again");
        }
    }

    private void Watch(RevokeOperation operation, QuarantineEntry entry)
    {
        operation.ObserveRetirement(() => HandleEvidence(entry));
        if (!_host.Has(CoreDefences.QuarantineWaitsForProof))
        {
            operation.ObserveCompletion(() => Release(entry));
        }
    }

    private void Watch(QuarantineEntry entry) => entry.OpenWork?.TryObserveEnd(_ => HandleEvidence(entry));

    private void HandleEvidence(QuarantineEntry entry)
    {
        if (entry.IsOpen)
        {
            Watch(entry);
        }
        else
        {
            Release(entry);
        }
    }

    private QuarantineEntry Add(IReadOnlyList<Fence> work, string name, ulong bytes, Action release)
    {
        QuarantineEntry entry = new(_host, work, name, bytes, release);
        _entries.Add(entry);
        Bytes += bytes;
        _host.Trace("quarantine.hold", name, (long)bytes);
        return entry;
    }

    private void Release(QuarantineEntry entry)
    {
        if (!_entries.Remove(entry))
        {
            return;
        }

        Bytes -= entry.Bytes;
        _host.Trace("quarantine.release", entry.Name, (long)entry.Bytes);
        entry.Release();
    }

    private int OverdueCount()
    {
        int count = 0;
        foreach (QuarantineEntry entry in _entries)
        {
            count += entry.State == QuarantineState.Overdue ? 1 : 0;
        }

        return count;
    }
}
