using System.Net;
using System.Runtime.InteropServices;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Another host, one of whose queue pairs is connected to a client's.</summary>
internal sealed class ContextPeer(WayleaveHost host, DeviceObject local, HeldContext context) : IAsyncDisposable
{
    /// <summary>What it writes, unless less is asked for.</summary>
    public const int Bytes = 64 << 10;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public static async Task<ContextPeer> OpenAsync(string address, HeldContext context)
    {
        byte[] own = IPAddress.Parse(address).GetAddressBytes();
        own[2] ^= 0x80; // of its own, and no test's
        WayleaveHost host = await WayleaveHost.StartAsync(new HostConfig
        {
            Name = "peer",
            Nics = [new NicConfig { Address = new IPAddress(own), UdpPort = 0 }],
            Gpus = [new GpuConfig { VramBytes = 2 << 20, SystemPoolBytes = 0 }],
            Nvmes = [],
        });
        DeviceObject local = await host.Objects.CreateAsync("gpu0", "local", Bytes, null, Cancellation);
        return new ContextPeer(host, local, context);
    }

    public Task FillAsync(byte value) =>
        host.Objects.ForEachPieceAsync(local, (_, bytes) => bytes.Fill(value), Cancellation);

    /// <summary>It holds nothing but that.</summary>
    public Task ExpectAsync(byte value) => host.Objects.ForEachPieceAsync(
        local, (_, bytes) => Assert.Equal(-1, bytes.IndexOfAnyExcept(value)), Cancellation);

    /// <summary>Fills it with words that are of this seed and of their place in it.</summary>
    public Task FillWordsAsync(uint seed) => host.Objects.ForEachPieceAsync(
        local,
        (at, bytes) =>
        {
            Span<uint> words = MemoryMarshal.Cast<byte, uint>(bytes);
            for (int i = 0; i < words.Length; i++)
            {
                words[i] = Word(seed, (int)(at / sizeof(uint)) + i);
            }
        },
        Cancellation);

    /// <summary>It holds those words, each times a factor.</summary>
    public Task ExpectWordsAsync(uint seed, uint factor = 1) => host.Objects.ForEachPieceAsync(
        local, (at, bytes) => ExpectWords(bytes, seed, factor, (int)(at / sizeof(uint))), Cancellation);

    /// <summary>The same of any bytes.</summary>
    public static void ExpectWords(ReadOnlySpan<byte> bytes, uint seed, uint factor = 1, int first = 0)
    {
        ReadOnlySpan<uint> words = MemoryMarshal.Cast<byte, uint>(bytes);
        for (int i = 0; i < words.Length; i++)
        {
            if (words[i] != Word(seed, first + i) * factor)
            {
                Assert.Fail($"word {first + i} of seed {seed:x} is {words[i]:x}");
            }
        }
    }

    /// <summary>By a queue pair of its own, which an error ends.</summary>
    public WorkCompletionStatus Transfer(
        BulkDirection direction, RegionDocument region, ulong lengthBytes = Bytes, uint domain = 0) =>
        TransferAsync(direction, region, lengthBytes, domain).GetAwaiter().GetResult();

    public ValueTask DisposeAsync() => host.DisposeAsync();

    private static uint Word(uint seed, int index) =>
        (uint)(((((ulong)seed << 32) | (uint)index) * 0x9E37_79B9_7F4A_7C15) >> 32);

    private async Task<WorkCompletionStatus> TransferAsync(
        BulkDirection direction, RegionDocument region, ulong lengthBytes, uint domain)
    {
        await using Connection connection = await Connection.OpenAsync(host.Nics[0], local);
        ConnectionEndDocument end = await context.ConnectAsync(
            new ConnectContextDocument { Peer = ConnectionEndDocument.From(connection.Local), Domain = domain },
            Cancellation);
        connection.Connect(end.ToEnd());
        BulkTransfer bulk = new(
            host.Nics[0].Driver, connection.QueuePair, connection.Completions, host.Context);
        WorkCompletionStatus status = bulk.Run(
            direction, new BulkRange(0, connection.Region.Key, region.Va, region.Rkey, lengthBytes), Cancellation);
        await context.DisconnectAsync(end, cancellation: Cancellation);
        return status;
    }
}
