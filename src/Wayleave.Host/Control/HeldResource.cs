using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// A resource that a host has lent, and the stream that is its handle: disposing closes the handle, and so does the
/// death of this process. With the last handle the resource is taken from everybody who uses it.
/// </summary>
public sealed class HeldResource : HeldGrant<ResourceEventDocument>
{
    private readonly Action<ResourceEventDocument>? _told;

    private HeldResource(LineReader lines, ResourceDocument resource, Action<ResourceEventDocument>? told)
        : base(lines, ControlJson.Default.ResourceEventDocument)
    {
        (Resource, _told) = (resource, told);
        Completion = Reading;
    }

    /// <summary>As it was lent.</summary>
    public ResourceDocument Resource { get; }

    /// <summary>
    /// The last line when somebody has taken the resource away and its memory is the owner's again, null after
    /// <see cref="HeldGrant{T}.DisposeAsync"/>. A <see cref="WayleaveException"/> when the host stops (ENODEV), died
    /// (ECONNRESET) or fell silent (ETIMEDOUT).
    /// </summary>
    public Task<ResourceEventDocument?> Completion { get; }

    internal static async Task<HeldResource> OpenAsync(
        LineReader lines, Action<ResourceEventDocument>? told, CancellationToken cancellation)
    {
        ResourceEventDocument first =
            await lines.ReadAsync(ControlJson.Default.ResourceEventDocument, cancellation).ConfigureAwait(false);
        ResourceDocument resource =
            first.Resource ?? throw lines.Fail(Errno.EPROTO, "the answer does not begin with a resource");
        told?.Invoke(first);
        return new HeldResource(lines, resource, told);
    }

    private protected override bool IsLast(ResourceEventDocument line)
    {
        if (line.Event != ResourceEventKind.Heartbeat)
        {
            _told?.Invoke(line);
        }

        return line.Event == ResourceEventKind.Ended
            && (line.Reason is null ? true : throw Lines.Fail(Errno.ENODEV, line.Reason));
    }
}
