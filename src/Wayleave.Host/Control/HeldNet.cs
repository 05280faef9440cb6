using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// A reception or a send that a host does, and the stream that keeps it: disposing ends it, and so does the death of
/// this process. Nothing of what is moved passes this process.
/// </summary>
public sealed class HeldNet : HeldGrant<NetEventDocument>
{
    private readonly Action<NetEventDocument> _line;

    private HeldNet(LineReader lines, NetEventDocument first, Action<NetEventDocument> line)
        : base(lines, ControlJson.Default.NetEventDocument)
    {
        (First, _line) = (first, line);
        Completion = AwaitLastAsync();
    }

    /// <summary>It listens, or is about to connect.</summary>
    public NetEventDocument First { get; }

    /// <summary>
    /// The last line: done. With a <see cref="WayleaveException"/> when it failed, when the host stops (ENODEV), died
    /// (ECONNRESET) or fell silent (ETIMEDOUT); cancelled by disposing.
    /// </summary>
    public Task<NetEventDocument> Completion { get; }

    internal static async Task<HeldNet> OpenAsync(
        LineReader lines, Action<NetEventDocument> line, CancellationToken cancellation)
    {
        NetEventDocument first = await lines
            .ReadAsync(ControlJson.Default.NetEventDocument, cancellation).ConfigureAwait(false);
        return first.Event is NetEventKind.Listening or NetEventKind.Connecting
            ? new HeldNet(lines, first, line)
            : throw lines.Fail(Errno.EPROTO, "the answer does not begin as it should");
    }

    private protected override bool IsLast(NetEventDocument line)
    {
        switch (line.Event)
        {
            case NetEventKind.Done:
                return true;
            case NetEventKind.HostStops:
                throw Lines.Fail(Errno.ENODEV, "the host stops");
            case NetEventKind.Failed:
                throw new WayleaveException(
                    Enum.TryParse(line.Errno, out Errno errno) ? errno : Errno.EREMOTEIO,
                    line.Operation ?? "serve",
                    line.Reason ?? "it failed",
                    line.Remedy);
            default:
                _line(line);
                return false;
        }
    }

    private async Task<NetEventDocument> AwaitLastAsync() =>
        await Reading.ConfigureAwait(false) ?? throw new OperationCanceledException("it was given up");
}
