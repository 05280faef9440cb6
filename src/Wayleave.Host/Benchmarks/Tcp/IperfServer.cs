using System.Buffers.Binary;
using System.Text.Json;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Ethernet;

namespace Wayleave.Host.Benchmarks.Tcp;

// The protocol is written down nowhere but in iperf3 itself (src/iperf_api.h, iperf_server_api.c, iperf_api.c).
//
//   client                                    server
//   control: connect, cookie of 37 bytes  -->
//                                         <-- 9  exchange parameters
//   length, JSON                          -->
//                                         <-- 10 create streams
//   each stream: connect, same cookie     -->
//                                         <-- 1  start, 2 run
//   streams: whatever fits                -->
//   4  end                                -->
//                                         <-- 13 exchange results
//   length, JSON                          -->
//                                         <-- length, JSON
//                                         <-- 14 display
//   16 done                               -->

/// <summary>
/// The server's side of one test of <c>iperf3 -c</c> over TCP, on a listener of ours: its streams are received by
/// whoever is asked to.
/// </summary>
internal sealed class IperfServer
{
    private const byte TestStart = 1;
    private const byte TestRunning = 2;
    private const byte TestEnd = 4;
    private const byte ParameterExchange = 9;
    private const byte CreateStreams = 10;
    private const byte ExchangeResults = 13;
    private const byte DisplayResults = 14;
    private const byte Done = 16;
    private const int CookieBytes = 37;
    private const int DocumentBytesMax = 64 << 10;
    private const int StreamsMax = 128;

    private readonly DevmemConnection _control;
    private readonly List<IperfStream> _streams = [];
    private readonly DevmemFragment[] _fragments = new DevmemFragment[1];

    private IperfServer(DevmemConnection control) => _control = control;

    /// <summary>Serves one client to the end of its test.</summary>
    /// <param name="listener">Whose next connections are the client's.</param>
    /// <param name="receive">
    /// Receives one stream, whose cookie was taken already; called before any data is on its way, so that it may steer.
    /// Ends when the stream says that it is complete.
    /// </param>
    /// <param name="clock">What the time of the test is taken by.</param>
    /// <param name="cancellation">Ends it all.</param>
    /// <returns>The streams, and how long they ran.</returns>
    /// <exception cref="WayleaveException">EPROTO when the client is none of iperf3; what a connection failed
    /// with.</exception>
    public static async Task<IperfTest> ServeAsync(
        DevmemListener listener,
        Func<IperfStream, Task> receive,
        TimeProvider clock,
        CancellationToken cancellation)
    {
        DevmemConnection control = await listener.AcceptAsync(cancellation).ConfigureAwait(false);
        await using (control.ConfigureAwait(false))
        {
            control.NoDelay = true;
            return await new IperfServer(control)
                .RunAsync(listener, receive, clock, cancellation).ConfigureAwait(false);
        }
    }

    private async Task<IperfTest> RunAsync(
        DevmemListener listener,
        Func<IperfStream, Task> receive,
        TimeProvider clock,
        CancellationToken cancellation)
    {
        byte[] cookie = new byte[CookieBytes];
        await ReadAsync(_control, cookie, cancellation).ConfigureAwait(false);
        await SayAsync(ParameterExchange, cancellation).ConfigureAwait(false);
        int count;
        using (JsonDocument parameters = await ReadDocumentAsync(cancellation).ConfigureAwait(false))
        {
            count = CountStreams(parameters.RootElement);
        }

        await SayAsync(CreateStreams, cancellation).ConfigureAwait(false);
        try
        {
            byte[] again = new byte[CookieBytes];
            for (int i = 0; i < count; i++)
            {
                DevmemConnection accepted = await listener.AcceptAsync(cancellation).ConfigureAwait(false);
                _streams.Add(new IperfStream(StreamId(i), accepted));
                await ReadAsync(accepted, again, cancellation).ConfigureAwait(false);
                Require(again.AsSpan().SequenceEqual(cookie), "a stream of another client");
            }

            Task[] receivers = [.. _streams.Select(receive)];
            await SayAsync(TestStart, cancellation).ConfigureAwait(false);
            long started = clock.GetTimestamp();
            await SayAsync(TestRunning, cancellation).ConfigureAwait(false);
            Task<byte> heard = HearAsync(cancellation);
            while (!heard.IsCompleted && receivers.Length > 0)
            {
                Task first = await Task.WhenAny([heard, .. receivers]).ConfigureAwait(false);
                await first.ConfigureAwait(false); // a receiver that failed ends the test
                receivers = [.. receivers.Where(r => r != first)];
            }

            Require(await heard.ConfigureAwait(false) == TestEnd, "no end of the test");
            TimeSpan elapsed = clock.GetElapsedTime(started);
            await SayAsync(ExchangeResults, cancellation).ConfigureAwait(false);
            using (JsonDocument sent = await ReadDocumentAsync(cancellation).ConfigureAwait(false))
            {
                foreach (JsonElement stream in sent.RootElement.GetProperty("streams").EnumerateArray())
                {
                    int id = stream.GetProperty("id").GetInt32();
                    _streams.Find(s => s.Id == id)?.Expect(stream.GetProperty("bytes").GetInt64());
                }
            }

            await Task.WhenAll(receivers).WaitAsync(cancellation).ConfigureAwait(false);
            await SendDocumentAsync(WriteResults(elapsed), cancellation).ConfigureAwait(false);
            await SayAsync(DisplayResults, cancellation).ConfigureAwait(false);
            Require(await HearAsync(cancellation).ConfigureAwait(false) == Done, "no farewell");
            return new IperfTest([.. _streams.Select(s => s.Bytes)], elapsed);
        }
        finally
        {
            foreach (IperfStream stream in _streams)
            {
                await stream.Connection.DisposeAsync().ConfigureAwait(false);
                stream.Dispose();
            }
        }
    }

    // Streams are numbered 1, 3, 4, 5, ...
    private static int StreamId(int index) => index == 0 ? 1 : index + 2;

    private static void Require(bool holds, string problem)
    {
        if (!holds)
        {
            throw new WayleaveException(Errno.EPROTO, "serve iperf3", problem);
        }
    }

    private static int CountStreams(JsonElement parameters)
    {
        Require(
            parameters.TryGetProperty("tcp", out JsonElement tcp) && tcp.ValueKind == JsonValueKind.True,
            "only TCP is received here");
        Require(
            !parameters.TryGetProperty("reverse", out _) && !parameters.TryGetProperty("bidirectional", out _),
            "only the client sends here");
        int count = parameters.TryGetProperty("parallel", out JsonElement parallel) ? parallel.GetInt32() : 1;
        Require(count is >= 1 and <= StreamsMax, $"{count} streams");
        return count;
    }

    private async Task ReadAsync(DevmemConnection from, Memory<byte> bytes, CancellationToken cancellation)
    {
        while (bytes.Length > 0)
        {
            ReceiveResult result = await from.ReadAsync(bytes, _fragments, cancellation).ConfigureAwait(false);
            Require(result.Bytes > 0, "it went away");
            Require(result.LinearBytes == result.Bytes, "its words lie in device memory");
            bytes = bytes[result.Bytes..];
        }
    }

    private async Task<byte> HearAsync(CancellationToken cancellation)
    {
        byte[] state = new byte[1];
        await ReadAsync(_control, state, cancellation).ConfigureAwait(false);
        return state[0];
    }

    private async Task SayAsync(byte state, CancellationToken cancellation) =>
        await _control.WriteAsync(new[] { state }, cancellation).ConfigureAwait(false);

    private async Task<JsonDocument> ReadDocumentAsync(CancellationToken cancellation)
    {
        byte[] prefix = new byte[sizeof(uint)];
        await ReadAsync(_control, prefix, cancellation).ConfigureAwait(false);
        uint length = BinaryPrimitives.ReadUInt32BigEndian(prefix);
        Require(length <= DocumentBytesMax, $"a document of {length} bytes");
        byte[] text = new byte[length];
        await ReadAsync(_control, text, cancellation).ConfigureAwait(false);
        try
        {
            return JsonDocument.Parse(text);
        }
        catch (JsonException e)
        {
            throw new WayleaveException(Errno.EPROTO, "serve iperf3", e.Message, innerException: e);
        }
    }

    private async Task SendDocumentAsync(byte[] text, CancellationToken cancellation)
    {
        byte[] message = new byte[sizeof(uint) + text.Length];
        BinaryPrimitives.WriteUInt32BigEndian(message, (uint)text.Length);
        text.CopyTo(message, sizeof(uint));
        await _control.WriteAsync(message, cancellation).ConfigureAwait(false);
    }

    private byte[] WriteResults(TimeSpan elapsed)
    {
        using MemoryStream memory = new();
        using (Utf8JsonWriter json = new(memory))
        {
            json.WriteStartObject();
            json.WriteNumber("cpu_util_total", 0);
            json.WriteNumber("cpu_util_user", 0);
            json.WriteNumber("cpu_util_system", 0);
            json.WriteNumber("sender_has_retransmits", -1);
            json.WriteString("congestion_used", "cubic");
            json.WriteStartArray("streams");
            foreach (IperfStream stream in _streams)
            {
                json.WriteStartObject();
                json.WriteNumber("id", stream.Id);
                json.WriteNumber("bytes", stream.Bytes);
                json.WriteNumber("retransmits", -1);
                json.WriteNumber("jitter", 0);
                json.WriteNumber("errors", 0);
                json.WriteNumber("omitted_errors", 0);
                json.WriteNumber("packets", 0);
                json.WriteNumber("omitted_packets", 0);
                json.WriteNumber("start_time", 0);
                json.WriteNumber("end_time", elapsed.TotalSeconds);
                json.WriteEndObject();
            }

            json.WriteEndArray();
            json.WriteEndObject();
        }

        return memory.ToArray();
    }
}

/// <summary>What one test of a client came to.</summary>
/// <param name="StreamBytes">Received by each stream.</param>
/// <param name="Elapsed">From the start until the client said that it had ended.</param>
internal sealed record IperfTest(IReadOnlyList<long> StreamBytes, TimeSpan Elapsed);
