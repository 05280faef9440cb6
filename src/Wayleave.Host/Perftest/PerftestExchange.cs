using System.Buffers.Binary;
using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Perftest;

// perftest_communication.c is the protocol. Of every item the client writes its own first and then reads; the server
// reads first. There are no frames: both must agree on what comes next.
//
//   version (16)  page (4)  cache line (4)  MTU (2)  keys (108 as text, 56 as struct), often, as a barrier too
//   report: size, iterations, peak, average, message rate (8 each)

/// <summary>What two sides of perftest tell each other, item by item.</summary>
internal sealed class PerftestExchange(IPerftestChannel channel, PerftestOptions options)
{
    private const int PageBytes = 4096;
    private const int CacheLineBytes = 64;
    internal const int BlockBytesMax = 1 << 18; // the largest page that a peer may have, or claim to have
    private static readonly TimeSpan s_look = TimeSpan.FromSeconds(1);

    private readonly byte[] _mine = new byte[PerftestKeys.TextBytes];
    private readonly byte[] _theirs = new byte[PerftestKeys.TextBytes];

    /// <summary>What the peer calls its version.</summary>
    public string PeerVersion { get; private set; } = "";

    /// <summary>A number that grows while the peer does something: then its next item is waited for longer.</summary>
    public Func<long> Progress { get; set; } = () => 0;

    /// <summary>What a side's buffer has at least: the larger page of both.</summary>
    public int BlockBytes { get; private set; } = PageBytes;

    /// <summary>Versions, pages, cache lines; then the MTU of both.</summary>
    /// <exception cref="WayleaveException">EPROTO: the peer speaks another version.</exception>
    public async Task<PathMtu> GreetAsync(PathMtu mtu, CancellationToken cancellation)
    {
        PerftestVersion.Write(_mine);
        await SwapBytesAsync("version", PerftestVersion.TextBytes, cancellation).ConfigureAwait(false);
        PeerVersion = PerftestVersion.Describe(_theirs.AsSpan(0, PerftestVersion.TextBytes));
        if (!PerftestVersion.TryParse(_theirs.AsSpan(0, PerftestVersion.TextBytes), out _))
        {
            throw new WayleaveException(
                Errno.EPROTO,
                "perftest",
                $"the peer says version '{PeerVersion}', and {PerftestVersion.Oldest:F2} to 6.x are known here",
                $"is it {options.ToolName}, and does it use -R as this side does?");
        }

        int page = await SwapNumberAsync("page size", PageBytes, cancellation).ConfigureAwait(false);
        int line = await SwapNumberAsync("cache line", CacheLineBytes, cancellation).ConfigureAwait(false);
        if (page is < 0 or > BlockBytesMax || line is < 0 or > PageBytes)
        {
            throw Nonsense($"a page of {page} bytes and a cache line of {line}");
        }

        BlockBytes = Math.Max(page, PageBytes);
        _mine.AsSpan(0, 2).Clear();
        _mine[0] = (byte)('0' + (int)mtu);
        await SwapBytesAsync("MTU", 2, cancellation).ConfigureAwait(false);
        int theirs = _theirs[0] - '0';
        if (theirs is < (int)PathMtu.Mtu256 or > (int)PathMtu.Mtu4096)
        {
            throw Nonsense($"'{PerftestVersion.Describe(_theirs.AsSpan(0, 1))}' as its MTU");
        }

        return (PathMtu)Math.Min((int)mtu, theirs);
    }

    /// <summary>Tells the peer of one queue pair and hears of its; twice the same is a barrier.</summary>
    public async Task<PerftestKeys> SwapAsync(PerftestKeys keys, CancellationToken cancellation)
    {
        int length = await SwapBytesAsync("keys", WriteKeys(keys), cancellation).ConfigureAwait(false);
        return ReadKeys(length);
    }

    /// <summary>The barrier at the end of a run.</summary>
    /// <param name="keys">Of the first queue pair.</param>
    /// <param name="mayBeMissing">The peer may just close instead; then there is nobody to tell.</param>
    /// <param name="cancellation">Ends the run.</param>
    public async Task AwaitEndAsync(
        PerftestKeys keys, bool mayBeMissing, CancellationToken cancellation)
    {
        int length = WriteKeys(keys);
        try
        {
            if (options.IsClient)
            {
                await SendAsync("end of the run", length, cancellation).ConfigureAwait(false);
            }

            int received = await ReceiveAsync("end of the run", length, cancellation).ConfigureAwait(false);
            if (received == 0)
            {
                if (mayBeMissing)
                {
                    return;
                }

                throw new WayleaveException(Errno.EIO, "perftest", "the peer has ended before the run has");
            }

            ReadKeys(received);
            if (!options.IsClient)
            {
                await SendAsync("end of the run", length, cancellation).ConfigureAwait(false);
            }
        }
        catch (WayleaveException e) when (mayBeMissing && e.Errno == Errno.ECONNRESET)
        {
            // Between our item and its answer the peer has gone, which is one way to end.
        }
    }

    /// <summary>Each side's result, for the other.</summary>
    public async Task<PerftestReport> SwapAsync(PerftestReport mine, CancellationToken cancellation)
    {
        long[] numbers =
        [
            mine.SizeBytes,
            mine.Operations,
            BitConverter.DoubleToInt64Bits(mine.PeakMebibytesPerS),
            BitConverter.DoubleToInt64Bits(mine.MebibytesPerS),
            BitConverter.DoubleToInt64Bits(mine.MillionMessagesPerS),
        ];
        for (int i = 0; i < numbers.Length; i++)
        {
            BinaryPrimitives.WriteInt64BigEndian(_mine, numbers[i]);
            await SwapBytesAsync("report", sizeof(long), cancellation).ConfigureAwait(false);
            numbers[i] = BinaryPrimitives.ReadInt64BigEndian(_theirs);
        }

        return new PerftestReport(
            numbers[0],
            numbers[1],
            BitConverter.Int64BitsToDouble(numbers[2]),
            BitConverter.Int64BitsToDouble(numbers[3]),
            BitConverter.Int64BitsToDouble(numbers[4]));
    }

    private int WriteKeys(PerftestKeys keys)
    {
        if (channel.IsText)
        {
            keys.WriteText(_mine);
            return PerftestKeys.TextBytes;
        }

        keys.WriteBinary(_mine);
        return PerftestKeys.BinaryBytes;
    }

    private PerftestKeys ReadKeys(int length)
    {
        ReadOnlySpan<byte> bytes = _theirs.AsSpan(0, length);
        return (channel.IsText
            ? PerftestKeys.TryParseText(bytes, out PerftestKeys keys)
            : PerftestKeys.TryParseBinary(bytes, out keys))
            ? keys
            : throw Nonsense($"{length} bytes that describe no queue pair");
    }

    private async Task<int> SwapNumberAsync(string what, int mine, CancellationToken cancellation)
    {
        BinaryPrimitives.WriteInt32BigEndian(_mine, mine);
        await SwapBytesAsync(what, sizeof(int), cancellation).ConfigureAwait(false);
        return BinaryPrimitives.ReadInt32BigEndian(_theirs);
    }

    // One item of _mine for one in _theirs.
    private async Task<int> SwapBytesAsync(string what, int length, CancellationToken cancellation)
    {
        if (options.IsClient)
        {
            await SendAsync(what, length, cancellation).ConfigureAwait(false);
        }

        int received = await ReceiveAsync(what, length, cancellation).ConfigureAwait(false);
        bool isWhole = received == length || (length == PerftestKeys.BinaryBytes && received > length);
        if (!isWhole)
        {
            throw received == 0
                ? new WayleaveException(
                    Errno.ECONNRESET, "perftest", $"the peer has ended instead of sending its {what}")
                : Nonsense($"{received} bytes as its {what}, which has {length}");
        }

        if (!options.IsClient)
        {
            await SendAsync(what, length, cancellation).ConfigureAwait(false);
        }

        return received;
    }

    private async Task<int> ReceiveAsync(string what, int length, CancellationToken cancellation)
    {
        int longest = !channel.IsText && length == PerftestKeys.BinaryBytes ? PerftestKeys.BinaryBytesMax : length;
        return await WhileItGoesOnAsync(
            over => channel.ReceiveAsync(_theirs.AsMemory(0, longest), over),
            $"sends no {what}",
            cancellation).ConfigureAwait(false);
    }

    private async Task SendAsync(string what, int length, CancellationToken cancellation) =>
        await WhileItGoesOnAsync(
            async over =>
            {
                await channel.SendAsync(_mine.AsMemory(0, length), over).ConfigureAwait(false);
                return length;
            },
            $"takes no {what}",
            cancellation).ConfigureAwait(false);

    // Waits as long as the peer does something.
    private async Task<int> WhileItGoesOnAsync(
        Func<CancellationToken, Task<int>> begin, string failure, CancellationToken cancellation)
    {
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Task<int> item = begin(over.Token);
        long seen = Progress();
        long since = Stopwatch.GetTimestamp();
        while (await Task.WhenAny(item, Task.Delay(s_look, over.Token)).ConfigureAwait(false) != item)
        {
            long now = Progress();
            if (now != seen)
            {
                (seen, since) = (now, Stopwatch.GetTimestamp());
            }
            else if (Stopwatch.GetElapsedTime(since) > options.Patience || cancellation.IsCancellationRequested)
            {
                break;
            }
        }

        await over.CancelAsync().ConfigureAwait(false);
        try
        {
            return await item.ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                "perftest",
                $"the peer {failure} for {options.Patience.TotalSeconds:0.#} s",
                $"is it {options.ToolName}, with the same options as here?");
        }
    }

    private static WayleaveException Nonsense(string what) => new(Errno.EPROTO, "perftest", $"the peer sends {what}");
}
