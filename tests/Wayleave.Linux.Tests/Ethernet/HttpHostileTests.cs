using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using Wayleave.Host;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// Uploads by hostile senders: heads against another reading of them, whole conversations against a model of the
/// objects, and both with a defence switched off.
/// </summary>
public sealed partial class HttpHostileTests
{
    private const ushort Port = 7480;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void A_head_is_read_as_the_specification_has_it_or_refused(int seed) =>
        Assert.Null(CompareHeads(HttpDefences.All, seed));

    [Fact]
    public void A_receiver_that_takes_a_length_said_twice_is_noticed() =>
        Assert.NotNull(CompareHeads(HttpDefences.All with { RefusesAmbiguousLengths = false }, seed: 1));

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Requests_make_the_objects_that_they_may_and_no_others(int seed) =>
        EthernetHost.Run(host => Assert.Null(Converse(host.Host, HttpDefences.All, seed, requests: 250)));

    [Fact]
    public void A_receiver_that_replaces_what_others_keep_is_noticed() => EthernetHost.Run(host => Assert.Contains(
        "gpu0/out is another",
        Converse(host.Host, HttpDefences.All with { KeepsOthersObjects = false }, seed: 1, requests: 250),
        StringComparison.Ordinal));

    private static string? CompareHeads(HttpDefences defences, int seed)
    {
        Choices choices = Choices.Seeded((ulong)seed);
        int taken = 0;
        for (int i = 0; i < 50_000; i++)
        {
            byte[] request = HttpRequests.Make(choices);
            int end = HttpHead.FindEnd(request);
            if (end < 0)
            {
                continue;
            }

            ReadOnlySpan<byte> bytes = request.AsSpan(0, end);
            HttpHead? head = HttpHead.TryParse(bytes, defences, out int status, out _);
            (string, string, ulong?)? read = head is null ? null : (head.Method, head.Target, head.ContentLength);
            if (read != HttpRequests.Read(bytes))
            {
                return $"{Convert.ToHexStringLower(bytes)}: {read}, and not {HttpRequests.Read(bytes)}";
            }

            Assert.True(head is not null || status is >= 400 and < 600);
            taken += head is null ? 0 : 1;
        }

        Assert.InRange(taken, 1000, int.MaxValue);
        return null;
    }

    // What a stranger can do, one request a connection: objects of names that are free, and those that came this way.
    private static string? Converse(WayleaveHost host, HttpDefences defences, int seed, int requests)
    {
        Choices choices = Choices.Seeded((ulong)seed);
        DeviceObject kept = Keep(host);
        ReceiveRequest request = new() { Queue = 2, Device = "gpu0", IsHttp = true, HttpDefences = defences };
        using CancellationTokenSource stop = new(Patience.Max);
        NetReceive reception = NetReceive.OpenAsync(host, host.Ethernets[0], request).GetAwaiter().GetResult();
        Task running = Task.Run(() => reception.RunAsync(_ => Task.CompletedTask, _ => Task.CompletedTask, stop.Token));
        Dictionary<string, string> model = [];
        string? wrong = null;
        for (int i = 0; i < requests && wrong is null; i++)
        {
            byte[] bytes = HttpRequests.Make(choices);
            string answer = Ask(bytes, choices);
            wrong = Judge(host, bytes, answer, model) ?? (running.IsCompleted ? "the reception is over" : null);
        }

        stop.Cancel();
        Assert.ThrowsAny<OperationCanceledException>(() => running.GetAwaiter().GetResult());
        reception.DisposeAsync().AsTask().GetAwaiter().GetResult();
        wrong ??= ReferenceEquals(host.Objects.Find("gpu0", "out"), kept) ? null : "gpu0/out is another";
        wrong ??= host.Objects.List().Count == model.Count + 1 ? null : "there are objects that nobody asked for";
        Assert.True(wrong is not null || model.Count > 2, "nothing was uploaded");
        return wrong;
    }

    private static string? Judge(WayleaveHost host, byte[] bytes, string answer, Dictionary<string, string> model)
    {
        if (!Answer().IsMatch(answer))
        {
            return $"{Convert.ToHexStringLower(bytes)} was answered by {answer}";
        }

        int end = HttpHead.FindEnd(bytes);
        bool isMade = end > 0
            && HttpRequests.Read(bytes.AsSpan(0, end)) is ("PUT", { } name, > 0 and { } length)
            && Name().IsMatch(name)
            && name is not ("out" or "nic0-rx2")
            && length <= (ulong)(bytes.Length - end);
        if (isMade)
        {
            (_, string target, ulong? count) = HttpRequests.Read(bytes.AsSpan(0, end))!.Value;
            bool isNew = model.TryAdd(target, "");
            model[target] = Convert.ToHexStringLower(SHA256.HashData(bytes.AsSpan(end, (int)count!)));
            string expected = isNew ? "HTTP/1.1 201 " : "HTTP/1.1 200 ";
            if (!answer.Replace("HTTP/1.1 100 Continue\r\n\r\n", "", StringComparison.Ordinal)
                .StartsWith(expected, StringComparison.Ordinal))
            {
                return $"{Encoding.Latin1.GetString(bytes)} was answered by {answer}";
            }
        }
        else if (answer.Contains("HTTP/1.1 20", StringComparison.Ordinal))
        {
            return host.Objects.Find("gpu0", "out")!.SizeBytes == 3
                ? $"{Encoding.Latin1.GetString(bytes)} was answered by {answer}"
                : "gpu0/out is another";
        }

        foreach ((string made, string hash) in model)
        {
            if (host.Objects.Find("gpu0", made)?.Sha256 != hash)
            {
                return $"gpu0/{made} is not what was sent last";
            }
        }

        return null;
    }

    private static DeviceObject Keep(WayleaveHost host)
    {
        DeviceObject? kept = null;
        EthernetHost.Wait(async patience =>
        {
            kept = await host.Objects.CreateAsync("gpu0", "out", 3, null, patience);
            await host.Objects.CommitAsync(kept, null);
        });
        return kept!;
    }

    // In up to three pieces, then the end of what is sent, then to the end of the answer.
    private static string Ask(byte[] bytes, Choices choices)
    {
        using Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port);
        socket.NoDelay = true;
        StringBuilder answer = new();
        try
        {
            for (int at = 0; at < bytes.Length;)
            {
                int length = choices.Next(2) == 0 ? bytes.Length - at : 1 + choices.Next(bytes.Length - at);
                socket.Send(bytes.AsSpan(at, length));
                at += length;
            }

            socket.Shutdown(SocketShutdown.Send);
            byte[] buffer = new byte[4096];
            for (int count; (count = socket.Receive(buffer)) > 0;)
            {
                answer.Append(Encoding.UTF8.GetString(buffer, 0, count));
            }
        }
        catch (SocketException)
        {
            answer.Append("(reset)");
        }

        return answer.ToString();
    }

    [GeneratedRegex(@"\A(HTTP/1\.1 100 Continue\r\n\r\n)?(HTTP/1\.1 \d{3} [\w ]+\r\n(.+\r\n)+\r\n.*\n)?(\(reset\))?\z")]
    private static partial Regex Answer();

    [GeneratedRegex(@"\A[A-Za-z0-9_+][A-Za-z0-9._+-]{0,127}\z")]
    private static partial Regex Name();
}
