using System.Net.Sockets;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Client;

/// <summary>
/// A program's connection to the broker of a host. What it opened, allocated and imported ends with it, and with the
/// death of the program; what it exported lives as long as somebody has a copy of the descriptor. Threads may share it:
/// requests are answered one after the other.
/// </summary>
public sealed class BrokerClient : IDisposable
{
    // Most answers are there within this, and to be woken by one takes as long again.
    private static readonly TimeSpan s_spin = TimeSpan.FromMicroseconds(50);

    private readonly MessageSocket _socket;
    private readonly Lock _lock = new();
    private readonly byte[] _buffer = new byte[BrokerMessage.BytesMax];
    private readonly Queue<(uint Attachment, bool IsRevoked)> _notices = []; // under the lock
    private ulong _tag;

    private BrokerClient(MessageSocket socket) => _socket = socket;

    /// <summary>Of the protocol, as agreed on: the newest that both sides speak.</summary>
    public uint Version { get; private set; }

    /// <summary>Connects, and agrees on a version.</summary>
    /// <param name="socketPath">
    /// <c>NAME.broker.sock</c> in the host's runtime directory, unless it says otherwise.
    /// </param>
    /// <param name="name">Of the program, for people; at most 31 bytes of UTF-8.</param>
    /// <exception cref="BrokerException">
    /// ECONNREFUSED: no host is there. EACCES: not for this user. EPROTO: no version in common.
    /// </exception>
    public static BrokerClient Connect(string socketPath, string name)
    {
        string operation = $"connect to {socketPath}";
        MessageSocket socket;
        try
        {
            socket = MessageSocket.Connect(socketPath);
        }
        catch (SocketException e)
        {
            throw new BrokerException(operation, e.SocketErrorCode switch
            {
                SocketError.AccessDenied => Errno.EACCES,
                SocketError.ConnectionRefused => Errno.ECONNREFUSED,
                _ => Errno.ENOENT,
            }, e.Message);
        }

        BrokerClient client = new(socket);
        try
        {
            uint version = 0;
            client.Ask(operation, BrokerOperation.Hello, (ref BrokerWriter body) =>
            {
                body.WriteUInt32(BrokerMessage.VersionOldest);
                body.WriteUInt32(BrokerMessage.Version);
                body.WriteName(name);
            }, (ref BrokerReader body, FileDescriptor[] _) => body.TryReadUInt32(out version) && body.IsEnd
                && version is >= BrokerMessage.VersionOldest and <= BrokerMessage.Version);
            client.Version = version;
            return client;
        }
        catch
        {
            client.Dispose();
            throw;
        }
    }

    /// <summary>Opens a device; only then its memory can be had.</summary>
    /// <exception cref="BrokerException">ENODEV: the host has no such device. EPERM: not for this program.</exception>
    public ClientDevice OpenDevice(string name)
    {
        uint number = 0;
        ulong total = 0;
        Ask($"open {name}", BrokerOperation.OpenDevice, (ref BrokerWriter body) => body.WriteName(name), (
            ref BrokerReader body, FileDescriptor[] _) =>
            body.TryReadUInt32(out number) && body.TryReadUInt64(out total) && body.IsEnd);
        return new ClientDevice(this, name, number, total);
    }

    /// <summary>
    /// The buffer that a descriptor stands for, which another program exported. The descriptor stays the caller's.
    /// </summary>
    /// <exception cref="BrokerException">
    /// EINVAL: it stands for none of this host's. ENODEV: it was taken back.
    /// </exception>
    public ClientBuffer Import(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        ClientBuffer? buffer = null;
        Ask("import", BrokerOperation.Import, null, (ref BrokerReader body, FileDescriptor[] _) =>
        {
            bool isRead = body.TryReadUInt32(out uint number);
            isRead &= body.TryReadUInt64(out ulong size);
            isRead &= body.TryReadName(out string name);
            buffer = new ClientBuffer(this, name, number, size);
            return isRead && body.IsEnd;
        }, descriptor);
        return buffer!;
    }

    /// <summary>What the host says of a fence; the fence stays the caller's.</summary>
    /// <exception cref="BrokerException">EBADF: it is none of this host's.</exception>
    public FenceStatus Describe(ClientFence fence)
    {
        ArgumentNullException.ThrowIfNull(fence);
        FenceStatus? status = null;
        Ask("describe a fence", BrokerOperation.DescribeFence, null, (ref BrokerReader body, FileDescriptor[] _) =>
        {
            bool isRead = body.TryReadUInt32(out uint whole);
            isRead &= body.TryReadUInt32(out uint forced);
            isRead &= body.TryReadUInt32(out uint count);
            isRead &= body.TryReadName(out string name);
            List<FencePart> parts = [];
            while (isRead && !body.IsEnd)
            {
                isRead &= body.TryReadName(out string timeline);
                isRead &= body.TryReadName(out string driver);
                isRead &= body.TryReadUInt32(out uint own);
                isRead &= body.TryReadUInt64(out ulong nanoseconds);
                TimeSpan at = TimeSpan.FromTicks((long)(nanoseconds / TimeSpan.NanosecondsPerTick));
                parts.Add(new FencePart(timeline, driver, (int)own, at));
            }

            status = new FenceStatus(name, (int)whole, forced != 0, (int)count, parts);
            return isRead;
        }, fence.Descriptor);
        return status!;
    }

    /// <summary>
    /// Says when a fence had better signal (<c>SYNC_IOC_SET_DEADLINE</c>): a hint for whoever works on it. It stays the
    /// caller's.
    /// </summary>
    /// <param name="fence">Of this host.</param>
    /// <param name="fromNow">
    /// Not negative. Programs do not share the host's clock, so that it is relative, unlike the kernel's.
    /// </param>
    /// <exception cref="BrokerException">EBADF: it is none of this host's. EINVAL: more than 292 years.</exception>
    /// <exception cref="OverflowException">More than 584 years.</exception>
    public void SetDeadline(ClientFence fence, TimeSpan fromNow)
    {
        ArgumentNullException.ThrowIfNull(fence);
        ArgumentOutOfRangeException.ThrowIfLessThan(fromNow, TimeSpan.Zero);
        Ask("set a deadline", BrokerOperation.SetDeadline, (ref BrokerWriter body) =>
        {
            body.WriteUInt64(checked((ulong)fromNow.Ticks * TimeSpan.NanosecondsPerTick));
            body.WriteUInt64(0);
        }, null, fence.Descriptor);
    }

    /// <summary>A fence that signals when both have (<c>SYNC_IOC_MERGE</c>); they stay the caller's.</summary>
    /// <param name="one">Of this host.</param>
    /// <param name="other">Of this host.</param>
    /// <param name="name">At most 31 bytes of UTF-8; may be empty.</param>
    /// <exception cref="BrokerException">EBADF, ENOENT: the first, the second is none of its. EDQUOT.</exception>
    public ClientFence Merge(ClientFence one, ClientFence other, string name = "")
    {
        ArgumentNullException.ThrowIfNull(one);
        ArgumentNullException.ThrowIfNull(other);
        return AskForFence(
            "merge fences", BrokerOperation.MergeFences, (ref BrokerWriter body) => body.WriteName(name), one, other);
    }

    /// <summary>A timeline that this program drives by hand.</summary>
    /// <param name="name">At most 31 bytes of UTF-8; may be empty.</param>
    /// <exception cref="BrokerException">EDQUOT.</exception>
    public ClientTimeline OpenTimeline(string name)
    {
        uint number = 0;
        Ask($"open timeline {name}", BrokerOperation.OpenTimeline, (ref BrokerWriter body) => body.WriteName(name), (
            ref BrokerReader body, FileDescriptor[] _) => body.TryReadUInt32(out number) && body.IsEnd);
        return new ClientTimeline(this, number, name);
    }

    /// <summary>
    /// As <see cref="Import"/> and <see cref="ClientBuffer.Map()"/>, with one question to the host instead of two. The
    /// descriptor stays the caller's.
    /// </summary>
    /// <param name="descriptor">As of <see cref="Import"/>.</param>
    /// <param name="mapping">The caller's; unmap before the buffer is disposed.</param>
    /// <exception cref="BrokerException">As both of them; nothing is left of what was refused.</exception>
    public ClientBuffer ImportAndMap(FileDescriptor descriptor, out ClientMapping mapping)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        ClientBuffer? buffer = null;
        FileDescriptor? pages = null;
        Ask("import and map", BrokerOperation.ImportAndMap, null, (ref BrokerReader body, FileDescriptor[] sent) =>
        {
            bool isRead = body.TryReadUInt32(out uint number);
            isRead &= body.TryReadUInt64(out ulong size);
            isRead &= body.TryReadName(out string name);
            buffer = new ClientBuffer(this, name, number, size);
            pages = sent is [{ } one] ? one : null;
            return isRead && body.IsEnd && pages is not null;
        }, descriptor);
        try
        {
            mapping = buffer!.MapPages(pages!);
            return buffer;
        }
        catch
        {
            buffer!.Dispose();
            throw;
        }
    }

    /// <summary>
    /// As <see cref="ImportAndMap(FileDescriptor, out ClientMapping)"/>, by who was sent the pages as well
    /// (<see cref="ClientMapping.Pages"/>): they are mapped while the host is asked, and not used before it has said
    /// that the descriptor is a buffer's and that the pages are that buffer's. Both descriptors stay the caller's.
    /// </summary>
    /// <param name="descriptor">As of <see cref="Import"/>.</param>
    /// <param name="pages">What came with it, from whomever.</param>
    /// <param name="mapping">The caller's; unmap before the buffer is disposed.</param>
    /// <exception cref="BrokerException">
    /// As of the other; EINVAL also for pages that are not the buffer's, EACCES for some that may not be written,
    /// ENOMEM. Nothing is left of what was refused.
    /// </exception>
    public ClientBuffer ImportAndMap(FileDescriptor descriptor, FileDescriptor pages, out ClientMapping mapping)
    {
        const string Operation = "import and map";
        ArgumentNullException.ThrowIfNull(descriptor);
        ArgumentNullException.ThrowIfNull(pages);
        ObjectDisposedException.ThrowIf(pages.IsClosed || pages.IsInvalid, pages);
        ClientBuffer? buffer = null;
        PagesIdentity identity = default;
        EarlyMapping early = new(pages);
        try
        {
            Ask(Operation, BrokerOperation.ImportWithPages, null, (ref BrokerReader body, FileDescriptor[] _) =>
            {
                bool isRead = body.TryReadUInt32(out uint number);
                isRead &= body.TryReadUInt64(out ulong size);
                isRead &= body.TryReadName(out string name);
                isRead &= body.TryReadUInt64(out ulong device);
                isRead &= body.TryReadUInt64(out ulong inode);
                buffer = new ClientBuffer(this, name, number, size);
                identity = new PagesIdentity(device, inode);
                return isRead && body.IsEnd;
            }, early.Make, descriptor);
        }
        catch
        {
            early.Drop();
            throw;
        }

        mapping = buffer!.MapEarly(early, Operation, identity, ChecksPages);
        return buffer;
    }

    /// <summary>
    /// Off, pages are taken for the buffer's because they came with it: for the test that must notice.
    /// </summary>
    internal bool ChecksPages { get; set; } = true;

    /// <summary>
    /// The buffer that a descriptor stands for, to be used by a device of this program that stops when told. Of a
    /// connection that does nothing else. The descriptor stays the caller's.
    /// </summary>
    /// <exception cref="BrokerException">As <see cref="Import"/>; EOPNOTSUPP for storage without pages.</exception>
    public ClientImport Attach(FileDescriptor descriptor)
    {
        ClientBuffer buffer = Import(descriptor);
        try
        {
            uint number = 0;
            Ask($"attach to {buffer.Name}", BrokerOperation.Attach, buffer.Write, (
                ref BrokerReader body, FileDescriptor[] _) => body.TryReadUInt32(out number) && body.IsEnd);
            return new ClientImport(this, buffer, number);
        }
        catch
        {
            buffer.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Ends the connection. Mappings of this process stay, and stay on its account, until they are gone.
    /// </summary>
    public void Dispose() => _socket.Dispose();

    /// <summary>Watches for the end of the connection.</summary>
    internal void AddTo(DescriptorWatch watch, ulong key) => _socket.AddHangupTo(watch, key);

    internal delegate void BodyWriter(ref BrokerWriter body);

    internal delegate bool BodyReader(ref BrokerReader body, FileDescriptor[] descriptors);

    /// <summary>Sends a request that is answered by a fence.</summary>
    internal ClientFence AskForFence(
        string operation, BrokerOperation code, BodyWriter write, params ReadOnlySpan<ClientFence> with)
    {
        FileDescriptor[] sent = new FileDescriptor[with.Length];
        for (int i = 0; i < sent.Length; i++)
        {
            sent[i] = with[i].Descriptor;
        }

        FileDescriptor? fence = null;
        Ask(operation, code, write, (ref BrokerReader body, FileDescriptor[] received) =>
        {
            fence = received is [{ } one] ? one : null;
            return fence is not null && body.IsEnd;
        }, sent);
        return ClientFence.FromDescriptor(fence!);
    }

    /// <summary>Gives a number back; a host that has died, or a client that was disposed, has it already.</summary>
    internal void Close(string operation, uint number)
    {
        try
        {
            Ask(operation, BrokerOperation.Close, (ref BrokerWriter body) => body.WriteUInt32(number));
        }
        catch (BrokerException e) when (e.Errno is Errno.ECONNRESET or Errno.EBADF)
        {
            // See above.
        }
    }

    /// <summary>Sends a request and reads its answer.</summary>
    internal void Ask(
        string operation,
        BrokerOperation code,
        BodyWriter? write,
        BodyReader? read = null,
        params ReadOnlySpan<FileDescriptor> descriptors) =>
        Ask(operation, code, write, read, meanwhile: null, descriptors);

    /// <summary>Does something while the host makes its answer; <paramref name="meanwhile"/> throws nothing.</summary>
    private void Ask(
        string operation,
        BrokerOperation code,
        BodyWriter? write,
        BodyReader? read,
        Action? meanwhile,
        params ReadOnlySpan<FileDescriptor> descriptors)
    {
        lock (_lock)
        {
            BrokerWriter writer = BrokerMessage.Begin(
                _buffer, new BrokerHeader(code, IsAnswer: false, Errno.Success, ++_tag));
            write?.Invoke(ref writer);
            Errno errno = _socket.Send(writer.Finish(), descriptors);
            ThrowIfGone(operation, errno, length: 1);
            meanwhile?.Invoke();
            errno = ReceiveAnswer(out int length, out FileDescriptor[] received);
            ThrowIfGone(operation, errno, length);
            if (!BrokerMessage.TryRead(_buffer.AsSpan(0, length), out BrokerHeader header, out BrokerReader body)
                || !header.IsAnswer || header.Operation != code || header.Tag != _tag)
            {
                Close(received);
                throw new BrokerException(operation, Errno.EPROTO, "the host's answer makes no sense");
            }

            if (header.Errno != Errno.Success)
            {
                Close(received);
                throw new BrokerException(operation, header.Errno, body.ReadText());
            }

            if (read?.Invoke(ref body, received) == false)
            {
                Close(received);
                throw new BrokerException(operation, Errno.EPROTO, "the host's answer is cut short");
            }
        }
    }

    /// <summary>
    /// Waits until the host tells an attachment of this connection to stop, or until <paramref name="wake"/> is
    /// signalled. For the thread that asks too: nobody else receives here.
    /// </summary>
    /// <returns>Whether there was one.</returns>
    /// <exception cref="BrokerException">ECONNRESET: the host is gone.</exception>
    internal bool TryTakeNotice(EventFd wake, out uint attachment, out bool isRevoked)
    {
        const string Operation = "wait for the host";
        lock (_lock)
        {
            if (_notices.Count == 0 && _socket.WaitToReceive(wake))
            {
                Errno errno = _socket.Receive(_buffer, out int length, out FileDescriptor[] received);
                Close(received);
                ThrowIfGone(Operation, errno, length);
                if (!TryKeepNotice(length))
                {
                    throw new BrokerException(Operation, Errno.EPROTO, "the host answers, and nobody asked");
                }
            }

            bool isTaken = _notices.TryDequeue(out (uint Attachment, bool IsRevoked) notice);
            (attachment, isRevoked) = notice;
            return isTaken;
        }
    }

    // Notices may come before the answer.
    private Errno ReceiveAnswer(out int length, out FileDescriptor[] received)
    {
        while (true)
        {
            Errno errno = _socket.Receive(_buffer, out length, out received, s_spin);
            if (errno != Errno.Success || !TryKeepNotice(length))
            {
                return errno;
            }
        }
    }

    private bool TryKeepNotice(int length)
    {
        bool isNotice = BrokerMessage.TryRead(_buffer.AsSpan(0, length), out BrokerHeader header, out BrokerReader body)
            && header is { IsAnswer: true, Operation: BrokerOperation.Invalidated, Tag: 0 };
        if (isNotice && body.TryReadUInt32(out uint attachment) && body.TryReadUInt32(out uint revoked))
        {
            _notices.Enqueue((attachment, revoked != 0));
        }

        return isNotice;
    }

    private static void ThrowIfGone(string operation, Errno errno, int length)
    {
        if (errno != Errno.Success || length == 0)
        {
            throw new BrokerException(
                operation, Errno.ECONNRESET, "the host has ended or cut this connection; open it again");
        }
    }

    private static void Close(FileDescriptor[] descriptors)
    {
        foreach (FileDescriptor descriptor in descriptors)
        {
            descriptor.Dispose();
        }
    }
}
