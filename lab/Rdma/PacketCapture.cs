using System.Buffers.Binary;
using Wayleave.Lab.Guests;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// Writes every frame that crosses a network device into a pcap file, from its start until it has been silent for a
/// while after it was told to stop. The device may be in another network namespace.
/// </summary>
internal sealed unsafe class PacketCapture : IDisposable
{
    private const int SilenceMs = 200;
    private const int FrameBytesMax = 65536;

    private readonly int _socket;
    private readonly FileStream _file;
    private readonly Thread _thread;
    private volatile bool _stops;

    /// <param name="space">Name of a namespace, as <c>ip netns</c> shows it.</param>
    /// <param name="device">The device in it.</param>
    /// <param name="path">The file.</param>
    internal PacketCapture(string space, string device, string path)
    {
        _file = File.Create(path);
        Span<byte> header = stackalloc byte[24];
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, 0xa1b2c3d4); // microseconds
        BinaryPrimitives.WriteUInt16LittleEndian(header[4..], 2);
        BinaryPrimitives.WriteUInt16LittleEndian(header[6..], 4);
        BinaryPrimitives.WriteUInt32LittleEndian(header[16..], FrameBytesMax);
        BinaryPrimitives.WriteUInt32LittleEndian(header[20..], 1); // Ethernet
        _file.Write(header);

        // A namespace belongs to a thread; the socket keeps the one that it was made in.
        int socket = -1;
        Exception? failure = null;
        Thread opener = new(() =>
        {
            try
            {
                socket = Open(space, device);
            }
            catch (IOException e)
            {
                failure = e;
            }
        });
        opener.Start();
        opener.Join();
        _socket = failure is null ? socket : throw failure;
        _thread = new Thread(Take);
        _thread.Start();
    }

    /// <summary>Returns when the device has fallen silent and the file is whole.</summary>
    public void Dispose()
    {
        _stops = true;
        _thread.Join();
        Libc.close(_socket);
        _file.Dispose();
    }

    private static int Open(string space, string device)
    {
        int name = KernelResult.Required(
            Libc.open($"/run/netns/{space}", Libc.O_RDONLY | Libc.O_CLOEXEC), $"namespace {space}");
        KernelResult.Required(Libc.setns(name, Libc.CLONE_NEWNET), $"namespace {space}");
        Libc.close(name);
        ushort all = BinaryPrimitives.ReverseEndianness(Libc.ETH_P_ALL);
        int socket = KernelResult.Required(
            Libc.socket(Libc.AF_PACKET, Libc.SOCK_RAW | Libc.SOCK_CLOEXEC, all), "packet socket");
        Libc.LinkAddress address = new()
        {
            Family = Libc.AF_PACKET,
            Protocol = all,
            Index = (int)Libc.if_nametoindex(device),
        };
        KernelResult.Required(Libc.bind(socket, &address, (uint)sizeof(Libc.LinkAddress)), $"device {device}");
        return socket;
    }

    private void Take()
    {
        byte[] frame = new byte[FrameBytesMax];
        while (true)
        {
            bool isLast = _stops;
            if (KernelPoll.Wait(_socket, Libc.POLLIN, isLast ? SilenceMs : 20) != "in")
            {
                if (isLast)
                {
                    return;
                }

                continue;
            }

            nint length;
            fixed (byte* start = frame)
            {
                length = Libc.recv(_socket, start, FrameBytesMax, 0);
            }

            if (length > 0)
            {
                Write(frame.AsSpan(0, (int)length));
            }
        }
    }

    private void Write(ReadOnlySpan<byte> frame)
    {
        long microseconds = (DateTime.UtcNow - DateTime.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;
        Span<byte> header = stackalloc byte[16];
        BinaryPrimitives.WriteUInt32LittleEndian(header, (uint)(microseconds / 1_000_000));
        BinaryPrimitives.WriteUInt32LittleEndian(header[4..], (uint)(microseconds % 1_000_000));
        BinaryPrimitives.WriteUInt32LittleEndian(header[8..], (uint)frame.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(header[12..], (uint)frame.Length);
        _file.Write(header);
        _file.Write(frame);
    }
}
