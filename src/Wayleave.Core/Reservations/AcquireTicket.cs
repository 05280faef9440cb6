namespace Wayleave.Core.Reservations;

/// <summary>
/// Who locks reservations (<c>ww_acquire_ctx</c>). Its stamp is drawn once and kept: the older ticket wins under
/// Wait-Die. A ticket belongs to an operation, not to a thread, and may be held across waits.
/// </summary>
public sealed class AcquireTicket(HostContext host, string owner)
{
    /// <summary>Age: the smaller, the older.</summary>
    public ulong Stamp { get; } = host.AllocateId();

    /// <summary>Who locks, for messages: <c>revoke of kv-cache</c>.</summary>
    public string Owner { get; } = owner;

    /// <summary>How many reservations this ticket holds.</summary>
    public int HeldCount { get; internal set; }

    public override string ToString() => $"{Owner} (ticket {Stamp})";
}
