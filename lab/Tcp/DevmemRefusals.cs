using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Wayleave.Core;
using Wayleave.Lab.Guests;
using Wayleave.Linux;
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
        using Socket datagrams = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        Record("return a token to a UDP socket", DevmemReceiver.DontNeed(datagrams, [new(1, 1)], out _));
        return ExitCodes.Done;
    }

    private static void Record(string step, Errno errno, string? says = null)
    {
        s_records.Add(new JsonObject { ["step"] = step, ["errno"] = errno.ToString(), ["says"] = says });
        Console.WriteLine($"{step}: {errno}{(says is null ? "" : $" ({says})")}");
    }
}
