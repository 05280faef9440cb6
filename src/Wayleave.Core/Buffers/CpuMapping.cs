using Wayleave.Core.Retirement;

namespace Wayleave.Core.Buffers;

/// <summary>
/// A mapping of the buffer into a process (<c>dma_buf_mmap</c>) or into the host itself (<c>dma_buf_vmap</c>). Nobody
/// can make it stop: for a revoke it counts as pinned and not revocable, and it ends when the process lets go or is
/// known to be dead. Host lock held by the caller.
/// </summary>
public sealed class CpuMapping : IMemoryHold
{
    internal CpuMapping(SharedBuffer buffer, string holder, ulong offset, ulong lengthBytes) =>
        (Buffer, Holder, Offset, LengthBytes) = (buffer, holder, offset, lengthBytes);

    public SharedBuffer Buffer { get; }

    /// <summary>Who mapped it, for people and proofs: <c>process 4711</c>.</summary>
    public string Holder { get; }

    /// <summary>First byte within the buffer.</summary>
    public ulong Offset { get; }

    public ulong LengthBytes { get; }

    /// <summary>What is known of it since its buffer was taken back; null before.</summary>
    public ImporterEvidence? Evidence { get; private set; }

    /// <summary>Whether the holder still reaches the memory.</summary>
    public bool IsMapped { get; private set; } = true;

    string IMemoryHold.Name => $"mapping of {Holder}";

    string IMemoryHold.DeviceName => "cpu";

    ImporterKind IMemoryHold.Kind => ImporterKind.Pinned;

    bool IMemoryHold.IsRevocable => false;

    /// <summary>The holder has let go (<c>munmap</c>).</summary>
    /// <exception cref="InvalidOperationException">
    /// It has ended before, or is the host's own: that ends by vunmap.
    /// </exception>
    public void End()
    {
        Buffer.Host.AssertHeld();
        Buffer.EndProcessMapping(this);
    }

    /// <summary>
    /// The holder is gone for good, and with it the mapping: its pidfd is readable, say. Evidence as good as an unmap.
    /// </summary>
    /// <param name="cause">How it is known.</param>
    /// <param name="witness">Who says so, for people and proofs: <c>pidfd of process 4711</c>.</param>
    public void EndOfDeadHolder(StopCause cause, string witness)
    {
        Buffer.Host.AssertHeld();
        Evidence ??= new ImporterEvidence(Buffer.Host, wasMapped: true);
        Evidence.RecordStopped(cause, witness);
        Buffer.EndProcessMapping(this);
    }

    /// <summary>
    /// The owner has put other storage behind the mapping: it stays, and reaches the memory no more. Evidence that no
    /// access can land (<see cref="RetirementGrade.Drained"/>), and not that the holder has let go.
    /// </summary>
    /// <param name="witness">Who says so, for people and proofs.</param>
    public void HandleStorageReplaced(string witness)
    {
        Buffer.Host.AssertHeld();
        Evidence ??= new ImporterEvidence(Buffer.Host, wasMapped: true);
        Evidence.RecordStopped(StopCause.StorageReplaced, witness);
    }

    public override string ToString() => $"mapping of {Holder} of {Buffer}";

    /// <summary>There is nobody to tell; from now on what becomes of the mapping is written down.</summary>
    internal void Invalidate() => Evidence ??= new ImporterEvidence(Buffer.Host, wasMapped: true);

    internal void HandleEnded()
    {
        IsMapped = false;
        Evidence?.RecordUnmapped();
    }
}
