namespace Wayleave.Core.Retirement;

/// <summary>
/// Memory that its owner took back without sufficient proof. It is counted and never given out on time alone: an entry
/// leaves when its revoke retires after all. Host lock held by the caller.
/// </summary>
public sealed class Quarantine(HostContext host)
{
    private readonly List<QuarantineEntry> _entries = [];

    public IReadOnlyList<QuarantineEntry> Entries => _entries;

    /// <summary>Bytes that are neither in use nor free.</summary>
    public ulong Bytes { get; private set; }

    /// <summary>
    /// Gives memory back as soon as <paramref name="operation"/> retires: at once, or later from quarantine.
    /// </summary>
    /// <param name="operation">The revoke whose proof is awaited.</param>
    /// <param name="name">For people: <c>gpu0 vram 0x100000+0x200000</c>.</param>
    /// <param name="bytes">How much memory.</param>
    /// <param name="release">Runs once, with the host lock held; from then on the memory may have a new owner.</param>
    public void Hold(RevokeOperation operation, string name, ulong bytes, Action release)
    {
        host.AssertHeld();
        if (operation.State == RevokeState.Retired)
        {
            release();
            return;
        }

        QuarantineEntry entry = new(operation, name, bytes, host.Now);
        _entries.Add(entry);
        Bytes += bytes;
        host.Trace("quarantine.hold", name, (long)bytes);
        operation.ObserveRetirement(() =>
        {
            _entries.Remove(entry);
            Bytes -= bytes;
            host.Trace("quarantine.release", name, (long)bytes);
            release();
        });
    }
}

/// <summary>Memory whose old use may not have stopped.</summary>
/// <param name="Operation">The revoke that has not retired; its proof says what is missing.</param>
/// <param name="Name">For people.</param>
/// <param name="Bytes">How much memory.</param>
/// <param name="Since">On the host's clock.</param>
public sealed record QuarantineEntry(RevokeOperation Operation, string Name, ulong Bytes, TimeSpan Since);
