using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// Read first: linux:Documentation/networking/tuntap.rst and drivers/net/tun.c.
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

    private const string Path = "/dev/net/tun";

    private readonly FileDescriptor _device;
    private readonly WakeEvent _wake = new();

    private TapDevice(FileDescriptor device, string name) => (_device, Name) = (device, name);

    /// <summary>The interface, as <c>ip link</c> shows it.</summary>
    public string Name { get; }

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

        FileDescriptor fd = OpenDevice();
        try
        {
            ifreq request = default;
            bytes.AsSpan().CopyTo(new Span<byte>(request.ifr_name, @if.IFNAMSIZ));
            request.ifr_flags = if_tun.IFF_TAP | if_tun.IFF_NO_PI | if_tun.IFF_VNET_HDR;
            Control(fd, if_tun.TUNSETIFF, &request, "TUNSETIFF", name);
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
            string given = Marshal.PtrToStringUTF8((nint)request.ifr_name) ?? name;
            return new TapDevice(fd, given);
        }
        catch (LinuxException)
        {
            fd.Dispose();
            throw;
        }
    }

    /// <summary>Reads one frame with its header. Never blocks.</summary>
    /// <param name="buffer">Of <see cref="FrameBytesMax"/>: what does not fit is cut off silently.</param>
    /// <param name="lengthBytes">Header and frame; 0 on failure.</param>
    /// <returns>
    /// EAGAIN: nothing is there. EIO: the interface is down. EBADFD: the interface was deleted.
    /// </returns>
    public Errno TryRead(Span<byte> buffer, out int lengthBytes)
    {
        using FileDescriptor.Borrowed fd = _device.Borrow();
        fixed (byte* data = buffer)
        {
            while (true)
            {
                nint count = Libc.read(fd.Number, data, (nuint)buffer.Length);
                if (count >= 0)
                {
                    lengthBytes = (int)count;
                    return Errno.Success;
                }

                Errno errno = LinuxException.LastErrno();
                if (errno != Errno.EINTR)
                {
                    lengthBytes = 0;
                    return errno;
                }
            }
        }
    }

    /// <summary>Hands one frame with its header to the kernel; copied. Never blocks.</summary>
    /// <returns>
    /// EAGAIN: no room, see <see cref="WaitForSendRoom"/>. EINVAL: the header contradicts the frame, which is gone.
    /// EIO: the interface is down. Others as <see cref="TryRead"/>.
    /// </returns>
    public Errno TryWrite(ReadOnlySpan<byte> frame)
    {
        using FileDescriptor.Borrowed fd = _device.Borrow();
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
        _device.Dispose();
        _wake.Dispose();
    }

    private bool Sleep(TimeSpan timeout, short events)
    {
        Errno errno = _wake.Sleep(_device, events, timeout, out bool isOver);
        return errno == Errno.Success ? isOver : throw new LinuxException("ppoll", Name, errno);
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
