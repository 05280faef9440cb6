using System.Text;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>Many connections of the kernel at once, and each byte where it belongs.</summary>
public sealed class ManySendersTests
{
    private const ushort Port = PeerGpu.Port;

    // argv: address, port, connections, bytes of each. Everybody connects before anybody sends, each sends when it is
    // told to, all at once, and compares the hash that it is answered.
    private const string Senders =
        """
        import hashlib, random, resource, selectors, socket, sys
        address, port, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        draw = random.Random(count)
        selector = selectors.DefaultSelector()
        senders = []
        for i in range(count):
            s = socket.create_connection((address, port), timeout=60)
            s.setblocking(False)
            sender = {"data": draw.randbytes(size + i), "at": 0, "answer": b"", "goes": False}
            selector.register(s, selectors.EVENT_READ, sender)
            senders.append(sender)
        open_ones = count
        while open_ones:
            for key, events in selector.select(60):
                s, x = key.fileobj, key.data
                if events & selectors.EVENT_READ:
                    part = s.recv(100)
                    if not x["goes"] and part:
                        x["goes"] = True
                        part = part[1:]
                        selector.modify(s, selectors.EVENT_READ | selectors.EVENT_WRITE, x)
                    x["answer"] += part
                    if not part and x["at"] == len(x["data"]):
                        selector.unregister(s)
                        s.close()
                        open_ones -= 1
                        continue
                if events & selectors.EVENT_WRITE and x["at"] < len(x["data"]):
                    x["at"] += s.send(x["data"][x["at"]:x["at"] + 65536])
                    if x["at"] == len(x["data"]):
                        s.shutdown(socket.SHUT_WR)
                        selector.modify(s, selectors.EVENT_READ, x)
        good = sum(x["answer"].decode() == hashlib.sha256(x["data"]).hexdigest().upper() for x in senders)
        print(good)
        """;

    [Theory]
    [InlineData(KernelPeer.OurIPv4)]
    [InlineData(KernelPeer.OurIPv6)]
    public void A_thousand_connections_at_once_land_in_device_memory_byte_for_byte(string address)
    {
        const int Count = 1000;
        KernelPeer.Run(peer =>
        {
            PeerGpu gpu = new(peer, megabytes: 32);
            MemoryBinding binding = gpu.BindReceive(pages: 6000);
            using DevmemListener listener = peer.Nic.Listen(Port, backlog: Count);
            Task<long> server = Task.Run(() => ServeAsync(peer, listener, Count, _ => gpu));
            (int exit, string output) = KernelPeer.Execute("python3", $"- {address} {Port} {Count} 20000", Senders);
            Assert.Equal((0, $"{Count}\n"), (exit, output));
            Assert.Equal(0, server.GetAwaiter().GetResult());
            Assert.Equal(0, peer.Nic.Driver.WithToken(() => binding.OutstandingTokens));
        });
    }

    [Theory]
    [InlineData(12000)] // more than anybody sends
    [InlineData(2560)] // a third of it: who is steered there shares it from the rule on
    public void Sixty_four_senders_are_steered_to_four_queues_of_two_GPUs(int pages)
    {
        const int Count = 64;
        KernelPeer.Run(peer =>
        {
            peer.Nic.Driver.WithToken(() => Assert.Equal(Errno.Success, peer.Nic.Device.SetChannels(6)));

            PeerGpu[] gpus = [new(peer, 0, megabytes: 48), new(peer, 1, megabytes: 48)];
            MemoryBinding[] bindings =
            [
                gpus[0].BindReceive(pages, steers: false, 2, 3),
                gpus[1].BindReceive(pages, steers: false, 4, 5),
            ];
            using DevmemListener listener = peer.Nic.Listen(Port, backlog: Count);
            Task<long> server = Task.Run(() => ServeAsync(peer, listener, Count, index =>
            {
                (DevmemConnection connection, int number) = index;
                int queue = 2 + (number % 4);
                gpus[(queue - 2) / 2].Steer(connection.Flow, queue);
                return gpus[(queue - 2) / 2];
            }));
            (int exit, string output) =
                KernelPeer.Execute("python3", $"- {KernelPeer.OurIPv4} {Port} {Count} 1000000", Senders);
            Assert.Equal((0, $"{Count}\n"), (exit, output));
            long linear = server.GetAwaiter().GetResult();
            string why = string.Join("; ", bindings.Select(b =>
                $"{b.BytesLinear} linear, {b.BytesPlaced} placed, {b.Pool.AllocationFailures} without a chunk"))
                + string.Join("; ", peer.Nic.Device.Port.Queues.Select(
                    q => $"queue {q.Index}: {q.Stats.DeviceBytes} device, {q.Stats.HostBytes} host"));
            Assert.True(linear == 0, $"{linear} bytes were copied: {why}");

            // A quarter each, by the queues' own counters, and nothing beside its owner's memory.
            long[] placed = [.. Enumerable.Range(2, 4).Select(
                q => peer.Nic.Driver.WithToken(() => peer.Nic.Device.Port.Queues[q].Stats.DeviceBytes))];
            Assert.All(placed, bytes => Assert.InRange(bytes, 16_000_000, 32_100_000));
            Assert.Equal(bindings[0].BytesPlaced, placed[0] + placed[1]);
            Assert.Equal(bindings[1].BytesPlaced, placed[2] + placed[3]);
            Assert.All(bindings, b => Assert.Equal((0L, 0), (b.BytesLinear, b.OutstandingTokens)));
        });
    }

    // Accepts them all, then lets them all send; returns how many bytes were copied for anybody.
    private static async Task<long> ServeAsync(
        KernelPeer peer, DevmemListener listener, int count, Func<(DevmemConnection, int), PeerGpu> choose)
    {
        List<DevmemConnection> connections = [];
        while (connections.Count < count)
        {
            connections.Add(await listener.AcceptAsync(peer.Patience.Token));
        }

        Assert.Equal(count, peer.Nic.Driver.WithToken(() => peer.Nic.Protocols.Tcp.ConnectionCount));
        PeerGpu[] gpus = [.. connections.Select((c, i) => choose((c, i)))];
        long[] linear = await Task.WhenAll(connections.Select(async (connection, i) =>
        {
            await connection.WriteAsync("!"u8.ToArray(), peer.Patience.Token);
            (string hash, long copied) = await gpus[i].HashAllAsync(connection, peer.Patience.Token);
            await connection.WriteAsync(Encoding.ASCII.GetBytes(hash), peer.Patience.Token);
            connection.Shutdown();
            await connection.FlushAsync(peer.Patience.Token);
            await connection.DisposeAsync();
            return copied;
        }));
        return linear.Sum();
    }
}
