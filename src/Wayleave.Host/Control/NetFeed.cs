
namespace Wayleave.Host.Control;

//   listening | connecting, progress, received, progress, ..., done
//                                                            , failed      and how
//                                                            , host_stops

/// <summary>Tells who asked for a reception or a send how it goes, until that client leaves or it is over.</summary>
internal sealed class NetFeed(WayleaveHost host, ControlListenerOptions options, EventStream stream) : IDisposable
{
    private readonly SemaphoreSlim _line = new(1, 1);

    public void Dispose() => _line.Dispose();

    public NetEventDocument NewLine(NetEventKind kind) => new()
    {
        Event = kind,
        AtUs = ProofDocument.ToMicroseconds(host.Context.Now),
    };

    /// <summary>One line, after those before it.</summary>
    public async Task WriteAsync(NetEventDocument line)
    {
        await _line.WaitAsync().ConfigureAwait(false);
        try
        {
            await stream.WriteAsync(line, ControlJson.Default.NetEventDocument).ConfigureAwait(false);
        }
        finally
        {
            _line.Release();
        }
    }

    /// <summary>Runs work to its end and tells how far it is, and at the end how it went.</summary>
    /// <param name="work">Returns the last line.</param>
    /// <param name="bytes">How far it is.</param>
    /// <param name="over">The client left, or the host stops.</param>
    public async Task RunAsync(
        Func<CancellationToken, Task<NetEventDocument>> work, Func<long> bytes, CancellationToken over)
    {
        using CancellationTokenSource done = CancellationTokenSource.CreateLinkedTokenSource(over);
        Task beat = BeatAsync(bytes, done);
        NetEventDocument last;
        try
        {
            last = await work(done.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (over.IsCancellationRequested && !stream.HasClientLeft)
        {
            last = NewLine(NetEventKind.HostStops);
        }
        catch (WayleaveException e)
        {
            last = NewLine(NetEventKind.Failed) with
            {
                Errno = e.Errno.ToString(),
                Operation = e.Operation,
                Reason = e.Reason,
                Remedy = e.Remedy,
            };
        }
        catch (Exception e) when (e is not OperationCanceledException && !stream.HasClientLeft)
        {
            options.Log?.WriteLine($"wayleave: {e}");
            last = NewLine(NetEventKind.Failed) with
            {
                Errno = nameof(Core.Errno.EIO),
                Operation = "serve",
                Reason = "the host failed; its log says how",
            };
        }
        finally
        {
            await done.CancelAsync().ConfigureAwait(false);
            await beat.ConfigureAwait(false);
        }

        await WriteAsync(last with { Bytes = bytes() }).ConfigureAwait(false);
    }

    private async Task BeatAsync(Func<long> bytes, CancellationTokenSource done)
    {
        using PeriodicTimer timer = new(options.ProgressInterval, options.Clock);
        try
        {
            while (await timer.WaitForNextTickAsync(done.Token).ConfigureAwait(false))
            {
                await WriteAsync(NewLine(NetEventKind.Progress) with { Bytes = bytes() }).ConfigureAwait(false);
            }
        }
        catch (Exception e) when (e is OperationCanceledException or IOException or ObjectDisposedException)
        {
            // The work is over, or the client or the NIC has left, which ends the work too.
            await done.CancelAsync().ConfigureAwait(false);
        }
    }
}
