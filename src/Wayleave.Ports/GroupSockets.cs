using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Ports;

// The sockets of multicast groups come and go while the port runs. Who may do what:
//
//   port token   opens, closes and receives: nobody receives from a socket that is being closed, and a key that the
//                watch has told names the socket that it named, because both happen under one hold of the token
//   sleeper      without the token: polls the watch's own descriptor and no socket. The kernel adds a socket to a watch
//                that is being polled, and takes one out of it
//
// The watch is made with the first group and stays until the end, so a sleeper that read null misses at most that one:
// whoever attached wakes it.

/// <summary>Receives what is sent to the groups that queue pairs of a device are attached to.</summary>
internal sealed class GroupSockets(
    RdmaPort port, UdpEndpoint[] endpoints, IDatagramTap?[] taps, Memory<byte> receive) : IDisposable
{
    private readonly Dictionary<ulong, Member> _members = [];
    private readonly ulong[] _ready = new ulong[16]; // more come with the next turn
    private ulong _nextKey = 1;
    private volatile DescriptorWatch? _watch;

    /// <summary>Tells a sleeper of datagrams; null before the first group. Any thread.</summary>
    public DescriptorWatch? Watch => _watch;

    /// <summary>As <see cref="PortDriver.Attach"/>. Port token held.</summary>
    public Errno Attach(QueuePair pair, Gid group)
    {
        Errno errno = port.Groups.TryAttach(pair, group, out int number, out bool joins);
        if (!joins)
        {
            return errno;
        }

        bool opened = false;
        try
        {
            Open(number, group);
            opened = true;
            return Errno.Success;
        }
        catch (LinuxException e) when (
            e.Errno is Errno.EMFILE or Errno.ENFILE or Errno.ENOBUFS or Errno.ENOMEM or Errno.ENOSPC)
        {
            return Errno.ENOMEM;
        }
        finally
        {
            if (!opened)
            {
                port.Groups.TryDetach(pair, group, out _, out _); // whatever it was: attached without a socket is deaf
            }
        }
    }

    /// <summary>As <see cref="PortDriver.Detach"/>. Port token held.</summary>
    public Errno Detach(QueuePair pair, Gid group)
    {
        Errno errno = port.Groups.TryDetach(pair, group, out int number, out bool leaves);
        if (leaves)
        {
            foreach ((ulong key, Member member) in _members)
            {
                if (member.Port == number && member.Group == group)
                {
                    _members.Remove(key);
                    member.Socket.Dispose();
                    break;
                }
            }
        }

        return errno;
    }

    /// <summary>
    /// Hands over what has come, a few super-packets; the groups take turns, and those that had one come last in the
    /// next call. Port token held.
    /// </summary>
    /// <param name="most">Super-packets of all groups: however many a stranger floods, a turn has its length.</param>
    /// <param name="host">Whose clock the port uses.</param>
    /// <returns>Whether there was any.</returns>
    public bool Receive(int most, HostContext host)
    {
        if (_members.Count == 0)
        {
            return false; // and no system call
        }

        // The kernel moves what it has told to the end of its list, so no more is asked for than can be served.
        int count = _watch!.Look(_ready.AsSpan(0, Math.Min(most, _ready.Length)));
        bool worked = count > 0;
        for (int i = 0; count > 0 && most > 0; most--)
        {
            i = i < count ? i : 0;
            if (_members.TryGetValue(_ready[i], out Member? member) && TryReceive(member, host))
            {
                i++;
            }
            else
            {
                _ready[i] = _ready[--count]; // has nothing more
            }
        }

        return worked;
    }

    /// <summary>Leaves all groups. Port token held, and never given back.</summary>
    public void Dispose()
    {
        foreach (Member member in _members.Values)
        {
            member.Socket.Dispose();
        }

        _members.Clear();
        _watch?.Dispose();
    }

    private void Open(int number, Gid group)
    {
        UdpGroupSocket socket = UdpGroupSocket.Join(
            endpoints[number - 1], new EndpointAddress(group.High, group.Low, Port: 0));
        try
        {
            DescriptorWatch watch = _watch ??= new DescriptorWatch();
            socket.Watch(watch, _nextKey);
            _members.Add(_nextKey, new Member(number, group, socket));
            _nextKey++;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    private bool TryReceive(Member member, HostContext host)
    {
        Span<byte> buffer = receive.Span;
        Errno errno = member.Socket.TryReceive(
            buffer, out int length, out int segmentBytes, out EndpointAddress source, out byte trafficClass);
        if (errno != Errno.Success)
        {
            return false; // nothing more, or an error that the socket has told with this
        }

        ReadOnlySpan<byte> datagrams = buffer[..length];
        Gid from = new(source.High, source.Low);
        TimeSpan now = host.Now;
        taps[member.Port - 1]?.Received(from, source.Port, member.Group, datagrams, segmentBytes, now);
        port.HandleDatagrams(
            from,
            source.Port,
            datagrams,
            segmentBytes,
            trafficClass,
            now,
            port: member.Port,
            group: member.Group);
        return true;
    }

    private sealed record Member(int Port, Gid Group, UdpGroupSocket Socket);
}
