using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Ethernet;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Lab.Guests;
using Wayleave.Linux;
using Wayleave.Linux.Buffers;
using Wayleave.Linux.Devmem;

namespace Wayleave.Lab.Tcp;

/// <summary>
/// What the kernel's devmem TCP answers where no NIC can do it: each refusal to bind, and calls on connections that
/// are not bound. A record of each.
/// </summary>
internal static class DevmemRefusals
{
    private static readonly Records s_records = new();

    /// <summary>The arguments are names of interfaces.</summary>
    internal static int Run(string[] arguments)
    {
        using NetdevSocket netdev = NetdevSocket.Open();
        Record("the kernel knows bind-rx", netdev.HasReceiveBinding ? Errno.Success : Errno.EOPNOTSUPP);
        using FileDescriptor none = new(-1, ownsHandle: false);
        using TapDevice tap = TapDevice.Open("wltap%d");
        foreach (string name in arguments.Append(tap.Name))
        {
            uint index = uint.Parse(
                File.ReadAllText($"/sys/class/net/{name}/ifindex"), System.Globalization.CultureInfo.InvariantCulture);
            Errno errno = netdev.BindReceive(index, none, [0], out _, out string? reason);
            Record($"bind queue 0 of {(name == tap.Name ? "a TAP device" : name)}", errno, reason);
        }

        RecordTransmit(netdev, [.. arguments, tap.Name], tap.Name);
        RecordHost(arguments[^1]);
        Record("bind a queue of no interface", netdev.BindReceive(12345, none, [0], out _, out string? no), no);
        Record("bind no queue", netdev.BindReceive(1, none, [], out _, out string? empty), empty);

        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        using Socket sender = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        sender.Connect(listener.LocalEndPoint!);
        using Socket reader = listener.Accept();
        byte[] linear = new byte[100];
        DevmemPiece[] pieces = new DevmemPiece[4];
        Record("read nothing", DevmemReceiver.TryReceive(reader, linear, pieces, out _, out _));
        sender.Send("hello"u8);
        reader.Poll(TimeSpan.FromSeconds(10), SelectMode.SelectRead);
        Errno read = DevmemReceiver.TryReceive(reader, linear, pieces, out int bytes, out int count);
        Record("read what lies in host memory", read, $"{bytes} bytes, {count} descriptions");
        Errno returned = DevmemReceiver.DontNeed(reader, [new(1, 1)], out int freed);
        Record("return a token that nobody has", returned, $"{freed} freed");
        Record("return 129 ranges", DevmemReceiver.DontNeed(reader, new DevmemTokens[129], out _));
        Record("send from no binding", DevmemSender.TrySend(sender, 12345, 0, 4096, out _));
        Record("allow sends by reference", DevmemSender.Enable(sender));
        Record("send from no binding, by reference", DevmemSender.TrySend(sender, 12345, 0, 4096, out _));
        Record("read what was sent by reference", DevmemSender.TryReadCompletion(sender, out _));
        using Socket datagrams = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        Record("return a token to a UDP socket", DevmemReceiver.DontNeed(datagrams, [new(1, 1)], out _));
        return ExitCodes.Done;
    }

    // With a real dma-buf: what a driver without devmem TCP says before and after it is looked at.
    private static void RecordTransmit(NetdevSocket netdev, string[] names, string tap)
    {
        Record("the kernel knows bind-tx", netdev.HasTransmitBinding ? Errno.Success : Errno.EOPNOTSUPP);
        using UdmabufDevice udmabuf = UdmabufDevice.Open();
        using DmaBuf buffer = udmabuf.Create("devmem", 1 << 20);
        foreach (string name in names)
        {
            uint index = NetworkInterface.FindIndex(name);
            string what = name == tap ? "a TAP device" : name;
            Errno errno = netdev.BindTransmit(index, buffer.Descriptor, out _, out string? reason);
            Record($"bind a dma-buf to be sent by {what}", errno, reason);
            errno = netdev.BindReceive(index, buffer.Descriptor, [0], out _, out reason);
            Record($"bind a dma-buf to queue 0 of {what}", errno, reason);
        }
    }

    // The whole way of netrecv: memory of a GPU, its pages, a dma-buf of them, the kernel's word, and back.
    private static void RecordHost(string name)
    {
        HostConfig config = new()
        {
            Name = "devmem",
            Gpus = [new GpuConfig { VramBytes = 64 << 20, SystemPoolBytes = 64 << 20 }],
            Nics = [new NicConfig { Address = IPAddress.Loopback, UdpPort = 0 }],
            Nvmes = [],
            LinuxNics = [new LinuxNicConfig { Name = name, Interface = name }],
        };
        RecordHostAsync(config).GetAwaiter().GetResult();
    }

    private static async Task RecordHostAsync(HostConfig config)
    {
        WayleaveHost host = await WayleaveHost.StartAsync(config).ConfigureAwait(false);
        await using (host.ConfigureAwait(false))
        {
            DeviceObject o = await host.Objects
                .CreateAsync("gpu0", "rx", 1 << 20, StorageKind.Static).ConfigureAwait(false);
            await host.Objects.CommitAsync(o, sha256: null).ConfigureAwait(false);
            WayleaveException? refusal = null;
            try
            {
                BindRequest request = new() { Queues = [0] };
                IReceiveBinding binding = await host.LinuxNics[0]
                    .BindReceiveAsync(host, o, request).ConfigureAwait(false);
                await binding.DisposeAsync().ConfigureAwait(false);
            }
            catch (WayleaveException e)
            {
                refusal = e;
            }

            Record(
                $"bind memory of a GPU to queue 0 of {host.LinuxNics[0].Name}",
                refusal?.Errno ?? Errno.Success,
                refusal?.Reason);
            Record($"attachments that are left: {o.Buffer.Attachments.Count}", Errno.Success);
        }
    }

    private static void Record(string step, Errno errno, string? says = null)
    {
        s_records.Add(new JsonObject { ["step"] = step, ["errno"] = errno.ToString(), ["says"] = says });
        Console.WriteLine($"{step}: {errno}{(says is null ? "" : $" ({says})")}");
    }
}
