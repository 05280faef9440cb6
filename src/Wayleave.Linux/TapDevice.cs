using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// Read first: linux:Documentation/networking/tuntap.rst and drivers/net/tun.c.
//
// An interface with several queues (IFF_MULTI_QUEUE) has a descriptor for each. For each frame the kernel runs the
// program of TapSteering, which was there before the second queue was: a frame that is not steered comes by the first.
// The descriptors are opened in the network namespace of the first, and attached when a flow is steered there: to end
// a queue that is attached takes the kernel a grace period.
//
// Each frame has a virtio_net_hdr of ten bytes in front, little endian. With the offloads set, the kernel hands over
// super-packets of up to 64 KiB whose checksum is not made: they never left this machine. What we hand to the kernel
// may be of the same kind, whatever the offloads say. One system call is one frame, each way.

/// <summary>What the kernel may leave to the reader of a TAP device.</summary>
public sealed record TapOptions
{
    /// <summary>
    /// Whether frames may come as super-packets with partial checksums. Without, the kernel cuts and sums itself.
    /// </summary>
    public bool Offloads { get; init; } = true;

    /// <summary>
    /// The same for datagrams (<c>VIRTIO_NET_HDR_GSO_UDP_L4</c>), which <see cref="Offloads"/> does not include. Linux
    /// 6.2.
    /// </summary>
    public bool DatagramOffloads { get; init; }

    /// <summary>
    /// Queues beside the first that segments may be steered to (<see cref="TapDevice.Steer"/>), at most
    /// <see cref="TapDevice.SteeredQueuesMax"/>. There are none of an interface that existed before, which others may
    /// have too, and none for a process that the kernel lets load no program; <see cref="TapDevice.SteeredQueues"/>
    /// says how many there are.
    /// </summary>
    public int SteeredQueues { get; init; }
}

/// <summary>
/// One end of an Ethernet link whose other end is the kernel's TCP/IP stack: a TAP interface of the network namespace
/// in which it was opened.
/// </summary>
/// <remarks>
/// All members may be called by any thread, but only one thread at a time may be in <see cref="Wait"/> or
/// <see cref="WaitForSendRoom"/>. The interface disappears with this object unless it was made persistent.
/// </remarks>
public sealed unsafe class TapDevice : IDisposable
{
    /// <summary>Bytes of the virtio header in front of each frame.</summary>
    public const int HeaderBytes = 10;

    /// <summary>
    /// A buffer of this size never truncates: header, Ethernet with a tag, and the longest IP packet.
    /// </summary>
    public const int FrameBytesMax = HeaderBytes + 18 + 40 + 65535;

    /// <summary>Queues beside the first that there can be.</summary>
    public const int SteeredQueuesMax = WakeEvent.SleepDescriptorsMax - 1;

    /// <summary>Flows that <see cref="Steer"/> takes.</summary>
    public const int FlowsMax = TapSteering.FlowsMax;

    private const string Path = "/dev/net/tun";

    private readonly FileDescriptor[] _queues;
    private readonly WakeEvent _wake = new();
    private int _attached = 1; // queues of the interface; grows by Steer, read by who waits

    private TapDevice(FileDescriptor[] queues, string name, string? whyNotSteered) =>
        (_queues, Name, WhyNotSteered) = (queues, name, whyNotSteered);

    /// <summary>The interface, as <c>ip link</c> shows it.</summary>
    public string Name { get; }

    /// <summary>Queues beside the first; 0 when there is one queue for all.</summary>
    public int SteeredQueues => _queues.Length - 1;

    /// <summary>Why there are none, although they were asked for; otherwise null.</summary>
    public string? WhyNotSteered { get; }

    /// <summary>Makes an interface, or takes one that exists and that nobody else has.</summary>
    /// <param name="name">
    /// At most 15 bytes; a name with <c>%d</c>, or an empty one, lets the kernel choose a number.
    /// </param>
    /// <param name="options">Null for the defaults.</param>
    /// <exception cref="ArgumentException">The name cannot be one.</exception>
    /// <exception cref="LinuxException">
    /// EPERM without CAP_NET_ADMIN for an interface that is not this user's; EBUSY when somebody has it; EINVAL when it
    /// is no TAP device with virtio headers.
    /// </exception>
    public static TapDevice Open(string name = "", TapOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(name);
        options ??= new TapOptions();
        byte[] bytes = Encoding.UTF8.GetBytes(name);
        if (bytes.Length >= @if.IFNAMSIZ || name.Contains('/', StringComparison.Ordinal))
        {
            throw new ArgumentException($"\"{name}\" cannot be the name of an interface", nameof(name));
        }

        bool isNew = !NetworkInterface.Exists(name);
        bool steers = options.SteeredQueues > 0 && isNew;
        string? whyNot = options.SteeredQueues > 0 && !isNew ? "others may have queues of the interface too" : null;
        List<FileDescriptor> queues = [];
        try
        {
            queues.Add(OpenDevice());
            ifreq request = MakeRequest(bytes, steers ? if_tun.IFF_MULTI_QUEUE : (short)0);
            Control(queues[0], if_tun.TUNSETIFF, &request, "TUNSETIFF", name);
            string given = Marshal.PtrToStringUTF8((nint)request.ifr_name) ?? name;
            SetUp(queues[0], given, options);
            if (steers)
            {
                whyNot = AddSteeredQueues(queues, given, Math.Min(options.SteeredQueues, SteeredQueuesMax));
            }

            return new TapDevice([.. queues], given, whyNot);
        }
        catch (LinuxException)
        {
            queues.ForEach(q => q.Dispose());
            throw;
        }
    }

    /// <summary>
    /// Makes the kernel choose the queue of each frame from now on; frames that wait in a queue stay there. A frame
    /// that no flow is about comes by queue 0, and so do all fragments, tagged frames and frames to other addresses.
    /// One thread at a time.
    /// </summary>
    /// <remarks>
    /// What can put a frame into another queue: whoever may send past the queue selection of the interface, which takes
    /// CAP_NET_ADMIN (XDP redirection, <c>skbedit queue_mapping</c>) or CAP_NET_RAW (AF_XDP) in its network namespace.
    /// </remarks>
    /// <param name="destination">The Ethernet address of frames that are steered, in the low 48 bits.</param>
    /// <param name="flows">The first that matches decides.</param>
    /// <returns>
    /// E2BIG for more than <see cref="FlowsMax"/>; EINVAL for a queue that there is not; EBADFD when the interface was
    /// deleted; EPERM and others when the kernel does not take the program: the flows are as before.
    /// </returns>
    public Errno Steer(ulong destination, ReadOnlySpan<TapFlow> flows)
    {
        int highest = 0;
        foreach (ref readonly TapFlow flow in flows)
        {
            if (flow.Queue < 0 || flow.Queue > SteeredQueues)
            {
                return Errno.EINVAL;
            }

            highest = Math.Max(highest, flow.Queue);
        }

        if (SteeredQueues == 0)
        {
            return Errno.Success; // one queue for all
        }

        while (_attached <= highest)
        {
            Errno errno = Attach(_queues[_attached]);
            if (errno != Errno.Success)
            {
                return errno;
            }

            Volatile.Write(ref _attached, _attached + 1);
        }

        return Load(_queues[0], destination, flows);
    }

    /// <summary>Reads one frame with its header. Never blocks.</summary>
    /// <param name="buffer">Of <see cref="FrameBytesMax"/>: what does not fit is cut off silently.</param>
    /// <param name="lengthBytes">Header and frame; 0 on failure.</param>
    /// <returns>
    /// EAGAIN: nothing is there. EIO: the interface is down. EBADFD: the interface was deleted.
    /// </returns>
    public Errno TryRead(Span<byte> buffer, out int lengthBytes) => TryRead(0, buffer, out lengthBytes);

    /// <summary>As <see cref="TryRead(Span{byte}, out int)"/>, from one queue.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such queue.</exception>
    public Errno TryRead(int queue, Span<byte> buffer, out int lengthBytes)
    {
        using FileDescriptor.Borrowed fd = DescriptorOf(queue).Borrow();
        fixed (byte* data = buffer)
        {
            while (true)
            {
                nint count = Libc.read(fd.Number, data, (nuint)buffer.Length);
                if (IsRead(count, out lengthBytes, out Errno errno))
                {
                    return errno;
                }
            }
        }
    }

    /// <summary>Reads one frame with its header into several pieces of memory, one after the other.</summary>
    /// <param name="queue">Which.</param>
    /// <param name="pieces">All together of <see cref="FrameBytesMax"/>, as the buffer of a plain read.</param>
    /// <param name="lengthBytes">Header and frame; 0 on failure.</param>
    /// <returns>
    /// As <see cref="TryRead(Span{byte}, out int)"/>. EFAULT: a piece cannot be written; the frame is gone.
    /// </returns>
    /// <exception cref="ArgumentOutOfRangeException">There is no such queue.</exception>
    public Errno TryRead(int queue, ScatterList pieces, out int lengthBytes)
    {
        ArgumentNullException.ThrowIfNull(pieces);
        using FileDescriptor.Borrowed fd = DescriptorOf(queue).Borrow();
        while (true)
        {
            nint count = Libc.readv(fd.Number, pieces.First, pieces.Count);
            GC.KeepAlive(pieces);
            if (IsRead(count, out lengthBytes, out Errno errno))
            {
                return errno;
            }
        }
    }

    /// <summary>Hands one frame with its header to the kernel; copied. Never blocks.</summary>
    /// <returns>
    /// EAGAIN: no room, see <see cref="WaitForSendRoom"/>. EINVAL: the header contradicts the frame, which is gone.
    /// EIO: the interface is down. Others as <see cref="TryRead(Span{byte}, out int)"/>.
    /// </returns>
    public Errno TryWrite(ReadOnlySpan<byte> frame)
    {
        using FileDescriptor.Borrowed fd = _queues[0].Borrow();
        fixed (byte* data = frame)
        {
            while (Libc.write(fd.Number, data, (nuint)frame.Length) < 0)
            {
                Errno errno = LinuxException.LastErrno();
                if (errno != Errno.EINTR)
                {
                    return errno;
                }
            }
        }

        return Errno.Success;
    }

    /// <summary>
    /// Sleeps until a frame is there, until <see cref="Wake"/>, or until the time is up. A wake that came before is not
    /// lost.
    /// </summary>
    /// <param name="timeout">Infinite with <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <returns>False when the time was up.</returns>
    public bool Wait(TimeSpan timeout) => Sleep(timeout, poll.POLLIN);

    /// <summary>As <see cref="Wait"/>, and also until there is room to send.</summary>
    public bool WaitForSendRoom(TimeSpan timeout) => Sleep(timeout, poll.POLLIN | poll.POLLOUT);

    /// <summary>As <see cref="Wait"/>, whatever comes by the link.</summary>
    public bool WaitForWake(TimeSpan timeout) => Sleep(timeout, events: 0);

    /// <summary>Ends the sleep of the thread that waits, or its next one. Any thread.</summary>
    public void Wake() => _wake.Signal();

    public void Dispose()
    {
        foreach (FileDescriptor queue in _queues)
        {
            queue.Dispose();
        }

        _wake.Dispose();
    }

    private bool Sleep(TimeSpan timeout, short events)
    {
        Span<short> each = stackalloc short[Volatile.Read(ref _attached)];
        each.Fill((short)(events & poll.POLLIN));
        each[0] = events;
        Errno errno = _wake.Sleep(_queues.AsSpan(0, each.Length), each, timeout, out bool isOver);
        return errno == Errno.Success ? isOver : throw new LinuxException("ppoll", Name, errno);
    }

    // By the name that the interface has now: a TUNSETIFF of another would make one.
    private Errno Attach(FileDescriptor queue)
    {
        ifreq now = default;
        if (Libc.ioctl(_queues[0], if_tun.TUNGETIFF, &now) < 0)
        {
            return (Errno)Marshal.GetLastPInvokeError();
        }

        ifreq request = MakeRequest(new ReadOnlySpan<byte>(now.ifr_name, @if.IFNAMSIZ), if_tun.IFF_MULTI_QUEUE);
        return Libc.ioctl(queue, if_tun.TUNSETIFF, &request) < 0
            ? (Errno)Marshal.GetLastPInvokeError()
            : Errno.Success;
    }

    private FileDescriptor DescriptorOf(int queue)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(queue);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(queue, SteeredQueues);
        return _queues[queue];
    }

    // False to try again.
    private static bool IsRead(nint count, out int lengthBytes, out Errno errno)
    {
        errno = count >= 0 ? Errno.Success : LinuxException.LastErrno();
        lengthBytes = (int)Math.Max(count, 0);
        return errno != Errno.EINTR;
    }

    private static ifreq MakeRequest(ReadOnlySpan<byte> name, short flags)
    {
        ifreq request = default;
        name.CopyTo(new Span<byte>(request.ifr_name, @if.IFNAMSIZ));
        request.ifr_flags = (short)(if_tun.IFF_TAP | if_tun.IFF_NO_PI | if_tun.IFF_VNET_HDR | flags);
        return request;
    }

    private static void SetUp(FileDescriptor fd, string name, TapOptions options)
    {
        int one = 1, headerBytes = HeaderBytes;
        Control(fd, if_tun.TUNSETVNETHDRSZ, &headerBytes, "TUNSETVNETHDRSZ", name);
        Control(fd, if_tun.TUNSETVNETLE, &one, "TUNSETVNETLE", name);
        nuint offloads = options.Offloads
            ? if_tun.TUN_F_CSUM | if_tun.TUN_F_TSO4 | if_tun.TUN_F_TSO6 | if_tun.TUN_F_TSO_ECN
            : 0;
        offloads |= options.DatagramOffloads
            ? if_tun.TUN_F_CSUM | if_tun_uso.TUN_F_USO4 | if_tun_uso.TUN_F_USO6
            : 0;
        Control(fd, if_tun.TUNSETOFFLOAD, (void*)offloads, "TUNSETOFFLOAD", name);
    }

    // Returns why there are none. An interface of no user lets every user of the namespace add a queue.
    private static string? AddSteeredQueues(List<FileDescriptor> queues, string name, int count)
    {
        Errno errno = Load(queues[0], 0, []);
        if (errno != Errno.Success)
        {
            return errno == Errno.EPERM
                ? "a program that steers takes CAP_BPF"
                : $"the kernel takes no program that steers: {errno}";
        }

        Control(queues[0], if_tun.TUNSETOWNER, (void*)(nuint)Libc.geteuid(), "TUNSETOWNER", name);
        for (int i = 0; i < count; i++)
        {
            queues.Add(OpenDevice());
        }

        return null;
    }

    private static Errno Load(FileDescriptor device, ulong destination, ReadOnlySpan<TapFlow> flows)
    {
        Errno errno = TapSteering.TryLoad(destination, flows, out FileDescriptor? program);
        if (errno != Errno.Success)
        {
            return errno;
        }

        using FileDescriptor.Borrowed loaded = program!.Borrow();
        int number = loaded.Number;
        errno = Libc.ioctl(device, if_tun.TUNSETSTEERINGEBPF, &number) < 0
            ? (Errno)Marshal.GetLastPInvokeError()
            : Errno.Success;
        program.Dispose(); // the interface has a reference of its own
        return errno;
    }

    private static FileDescriptor OpenDevice()
    {
        using Microsoft.Win32.SafeHandles.SafeFileHandle file =
            Libc.open(Path, fcntl.O_RDWR | fcntl.O_NONBLOCK | fcntl.O_CLOEXEC, 0);
        if (file.IsInvalid)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            throw new LinuxException("open", Path, errno, errno switch
            {
                Errno.ENOENT => "load the module tun (modprobe tun)",
                Errno.EACCES => "this user may not open it",
                _ => null,
            });
        }

        FileDescriptor device = new((int)file.DangerousGetHandle(), ownsHandle: true);
        file.SetHandleAsInvalid();
        return device;
    }

    private static void Control(FileDescriptor fd, nuint request, void* argument, string call, string name)
    {
        if (Libc.ioctl(fd, request, argument) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            throw new LinuxException(call, name, errno, errno switch
            {
                Errno.EPERM =>
                    "run it in a network namespace of its own (unshare -Urn), or let root make the interface: "
                    + "ip tuntap add dev NAME mode tap user USER vnet_hdr",
                Errno.EBUSY => "another process has it",
                Errno.EINVAL => "an interface of that name exists and is no TAP device with virtio headers",
                _ => null,
            });
        }
    }
}
