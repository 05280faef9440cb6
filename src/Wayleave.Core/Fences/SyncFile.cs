using System.Globalization;

namespace Wayleave.Core.Fences;

/// <summary>What <see cref="SyncFile.TryGetInfo"/> says of the whole (<c>struct sync_file_info</c>).</summary>
/// <param name="Name">Given, or made from the fence as it is now.</param>
/// <param name="Status">1 when all succeeded, 0 while one is pending, else the first negative errno.</param>
/// <param name="Count">How many plain fences there are.</param>
public readonly record struct SyncFileInfo(string Name, int Status, int Count);

/// <summary>One plain fence of a sync file (<c>struct sync_fence_info</c>).</summary>
/// <param name="TimelineName">What the driver calls its context.</param>
/// <param name="DriverName">The driver.</param>
/// <param name="Status">0 pending, 1 succeeded, or a negative errno.</param>
/// <param name="Timestamp">When it signalled; zero while pending.</param>
public readonly record struct SyncFenceInfo(string TimelineName, string DriverName, int Status, TimeSpan Timestamp);

/// <summary>
/// A fence as a thing that programs pass around (<c>sync_file</c>): a snapshot, never changed by what is added to a
/// buffer later. Host lock held by the caller.
/// </summary>
public sealed class SyncFile
{
    /// <summary>The longest name, in characters (the kernel's field holds 32 bytes with the zero).</summary>
    public const int NameLengthMax = 31;

    private readonly HostContext _host;
    private readonly string? _name;

    /// <param name="host">The host of the fence.</param>
    /// <param name="fence">Any fence, a container too.</param>
    /// <param name="name">Cut to <see cref="NameLengthMax"/>; null makes one up whenever it is asked.</param>
    public SyncFile(HostContext host, Fence fence, string? name = null)
    {
        (_host, Fence) = (host, fence);
        _name = name is { Length: > NameLengthMax } ? name[..NameLengthMax] : name;
    }

    public Fence Fence { get; }

    /// <summary>
    /// As given, or driver-timelineCONTEXT-SEQNO of the fence at this moment: that changes when it signals.
    /// </summary>
    public string Name => _name ?? string.Create(
        CultureInfo.InvariantCulture,
        $"{Fence.DriverName}-{Fence.TimelineName}{Fence.Context}-{Fence.Seqno}");

    /// <summary>Whether a poll would say that it can be read: all is signalled. Enables signalling.</summary>
    public bool Poll()
    {
        Fence.EnableSignaling();
        return Fence.CheckSignaled();
    }

    /// <summary>A file that is signalled when both are (<c>SYNC_IOC_MERGE</c>).</summary>
    /// <param name="other">Of the same host.</param>
    /// <param name="name">Cut to <see cref="NameLengthMax"/>.</param>
    /// <param name="flags">None is defined.</param>
    /// <param name="merged">The new file; both old ones stay as they are.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for any flag, <see cref="Errno.ENOENT"/> when there is no other file of this host.
    /// </returns>
    public Errno TryMerge(SyncFile? other, string name, uint flags, out SyncFile? merged)
    {
        _host.AssertHeld();
        merged = null;
        if (flags != 0)
        {
            return Errno.EINVAL;
        }

        if (other is null || !ReferenceEquals(other._host, _host))
        {
            return Errno.ENOENT;
        }

        merged = new SyncFile(_host, FenceUnwrap.Merge(_host, Fence, other.Fence), name);
        return Errno.Success;
    }

    /// <summary>Looks into it (<c>SYNC_IOC_FILE_INFO</c>).</summary>
    /// <param name="fences">Filled from the start; an empty one asks only for the count and the whole status.</param>
    /// <param name="flags">None is defined.</param>
    /// <param name="info">What there is.</param>
    /// <returns><see cref="Errno.EINVAL"/> for any flag, and when there are more fences than room for them.</returns>
    public Errno TryGetInfo(Span<SyncFenceInfo> fences, uint flags, out SyncFileInfo info)
    {
        _host.AssertHeld();
        info = default;
        if (flags != 0)
        {
            return Errno.EINVAL;
        }

        Fence[] parts = [.. FenceUnwrap.Unwrap(Fence)];
        if (fences.Length == 0)
        {
            info = new SyncFileInfo(Name, Fence.GetStatus(), parts.Length);
            return Errno.Success;
        }

        if (fences.Length < parts.Length)
        {
            return Errno.EINVAL;
        }

        int status = 1;
        for (int i = 0; i < parts.Length; i++)
        {
            int own = parts[i].GetStatus(); // first: it may signal the fence, and the names change with that
            fences[i] = new SyncFenceInfo(
                parts[i].TimelineName, parts[i].DriverName, own, parts[i].Timestamp ?? TimeSpan.Zero);
            status = status <= 0 ? status : own;
        }

        info = new SyncFileInfo(Name, status, parts.Length);
        return Errno.Success;
    }

    /// <summary>Hands a hint on to all fences (<c>SYNC_IOC_SET_DEADLINE</c>); on the host's clock.</summary>
    /// <returns><see cref="Errno.EINVAL"/> when the padding is not zero.</returns>
    public Errno TrySetDeadline(TimeSpan deadline, ulong padding = 0)
    {
        _host.AssertHeld();
        if (padding != 0)
        {
            return Errno.EINVAL;
        }

        Fence.SetDeadline(deadline);
        return Errno.Success;
    }
}
