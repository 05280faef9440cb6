using System.Buffers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;
using Wayleave.Ports.Programs;

namespace Wayleave.Ibverbs.Faults;

// One thread, started by a control call and so with all signals blocked; it serves one caller after the other, takes
// the port token and the host lock for a moment each, and holds neither while it waits. It ends with the process. A
// forked child has the socket and not the thread: who connects there is not answered, and gives up.

/// <summary>Takes faults from outside: see <see cref="FaultSocket"/> for the protocol.</summary>
internal static class FaultListener
{
    private const int StackBytes = 256 << 10;
    private const int ListedMax = 100; // of each kind and device: a message has room for ten such devices
    private static int s_started;

    /// <summary>
    /// Listens from now on; the first call counts. A name that is taken, by a process of the same number in another
    /// namespace for instance, is no reason not to run: then this one cannot be disturbed.
    /// </summary>
    public static void Start()
    {
        if (Interlocked.Exchange(ref s_started, 1) != 0)
        {
            return;
        }

        try
        {
            Socket listener = MessageSocket.Listen(FaultSocket.NameOf(Environment.ProcessId), backlog: 4);
            new Thread(() => Serve(listener), StackBytes) { IsBackground = true, Name = "wayleave faults" }.Start();
        }
        catch (SocketException e)
        {
            Console.Error.WriteLine($"wayleave: no faults from outside: {e.Message}");
        }
    }

    private static void Serve(Socket listener)
    {
        byte[] buffer = new byte[FaultSocket.MessageBytesMax];
        while (true)
        {
            try
            {
                using MessageSocket caller = new(listener.Accept());
                string answer = MayAsk(caller.Peer)
                    && caller.Receive(buffer, out int length, out FileDescriptor[] sent) == Errno.Success
                    ? Answer(Encoding.UTF8.GetString(buffer, 0, length), sent)
                    : FaultSocket.Refused + "only the user of the program, and root, may disturb it";
                caller.Send(Encoding.UTF8.GetBytes(answer), []);
            }
            catch (Exception e) when (e is SocketException or ArgumentException)
            {
                // The caller has gone.
                if (e is SocketException { SocketErrorCode: SocketError.TooManyOpenSockets })
                {
                    Thread.Sleep(100); // the program has used its descriptors up
                }
            }
        }
    }

    private static bool MayAsk(UnixPeer peer) => peer.UserId == 0 || peer.UserId == FileStatus.CurrentUserId;

    private static string Answer(string request, FileDescriptor[] sent)
    {
        foreach (FileDescriptor descriptor in sent)
        {
            descriptor.Dispose(); // nobody asked for one
        }

        VerbsDevice[] devices = [.. VerbsDevices.All.Where(d => d.Driver is not null)];
        try
        {
            switch (request)
            {
                case FaultSocket.List:
                    return FaultSocket.Done + Describe(devices);
                case FaultSocket.Clear:
                    Array.ForEach(devices, d => d.WithToken(() => d.Machine.Port.ChangeFaults(null)));
                    return FaultSocket.Done + "no faults";
                default:
                    if (FaultRequest.TryParse(request, out FaultRequest faults) is { } problem)
                    {
                        return FaultSocket.Refused + problem;
                    }

                    (bool happened, string words) = faults.Apply(devices);
                    return (happened ? FaultSocket.Done : FaultSocket.Refused) + words;
            }
        }
        catch (LinuxException e)
        {
            return FaultSocket.Refused + e.Message;
        }
    }

    private static string Describe(VerbsDevice[] devices)
    {
        ArrayBufferWriter<byte> buffer = new();
        using (Utf8JsonWriter writer = new(buffer))
        {
            writer.WriteStartObject();
            writer.WriteNumber("process", Environment.ProcessId);
            writer.WriteStartArray("devices");
            foreach (VerbsDevice device in devices)
            {
                writer.WriteStartObject();
                writer.WriteString("name", device.Name);
                writer.WriteString("address", device.Gid.ToString());
                device.WithToken(() => DescribePairs(device, writer));
                DescribeRegions(device, writer);
                writer.WriteEndObject();
            }

            writer.WriteEndArray();
            writer.WriteEndObject();
        }

        return Encoding.UTF8.GetString(buffer.WrittenSpan);
    }

    private static void DescribePairs(VerbsDevice device, Utf8JsonWriter writer)
    {
        writer.WriteString("faults", device.Machine.Port.Faults?.ToText() ?? "");
        writer.WriteStartArray("queue_pairs");
        foreach (VerbsQueuePair pair in device.QueuePairs.Take(ListedMax))
        {
            writer.WriteStartObject();
            writer.WriteNumber("number", pair.Pair.QpNumber);
            writer.WriteString("type", pair.Pair.Type.ToString());
            writer.WriteString("state", pair.Pair.State.ToString());
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
    }

    private static void DescribeRegions(VerbsDevice device, Utf8JsonWriter writer)
    {
        writer.WriteStartArray("regions");
        using (device.Host.Enter())
        {
            foreach (MemoryRegion region in device.Machine.Regions.Take(ListedMax))
            {
                writer.WriteStartObject();
                writer.WriteNumber("key", region.Key);
                writer.WriteNumber("bytes", region.LengthBytes);
                writer.WriteString("state", region.State.ToString());
                writer.WriteEndObject();
            }
        }

        writer.WriteEndArray();
    }
}
