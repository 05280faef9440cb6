using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Linux.Devmem;

namespace Wayleave.Host.Ethernet;

// What comes by a queue that is bound is described, what comes by another is copied; both as tcp_recvmsg_dmabuf and
// tcp_recvmsg_locked do it. Nothing here waits but for the socket, and no lock is held.

/// <summary>
/// A connection of the kernel's TCP, whose payload may lie in a dma-buf (<c>MSG_SOCK_DEVMEM</c>). One reader at a time.
/// Descriptions are of the object that <see cref="NetNic.BindReceiveAsync"/> bound. Not exercised on hardware.
/// </summary>
public sealed class LinuxDevmemConnection : IDevmemConnection
{
    private const int PiecesMax = 64; // of one recvmsg

    private readonly Socket _socket;
    private readonly DevmemPiece[] _pieces = new DevmemPiece[PiecesMax];
    private long _byToken;
    private long _copied;

    /// <param name="connected">A TCP socket; owned by this object.</param>
    public LinuxDevmemConnection(Socket connected)
    {
        ArgumentNullException.ThrowIfNull(connected);
        _socket = connected;
        System.Net.IPEndPoint remote = (System.Net.IPEndPoint)connected.RemoteEndPoint!;
        System.Net.IPAddress address = remote.Address.IsIPv4MappedToIPv6 ? remote.Address.MapToIPv4() : remote.Address;
        Peer = string.Create(
            System.Globalization.CultureInfo.InvariantCulture, $"{address} port {remote.Port}");
    }

    /// <inheritdoc/>
    public string Peer { get; }

    /// <inheritdoc/>
    public Errno TryRead(Span<byte> linear, Span<DevmemFragment> fragments, out ReceiveResult result)
    {
        result = default;
        if (linear.IsEmpty || fragments.IsEmpty)
        {
            return Errno.ETOOSMALL; // the kernel would say that nothing is left
        }

        Span<DevmemPiece> pieces = _pieces.AsSpan(0, Math.Min(_pieces.Length, fragments.Length));
        Errno errno = DevmemReceiver.TryReceive(_socket, linear, pieces, out int bytes, out int count);
        if (errno != Errno.Success)
        {
            return errno;
        }

        int copied = count == 0 ? bytes : 0;
        for (int i = 0; i < count; i++)
        {
            DevmemPiece piece = pieces[i];
            copied += piece.IsLinear ? (int)piece.LengthBytes : 0;
            fragments[i] = new DevmemFragment(
                piece.IsLinear ? DevmemFragmentKind.Linear : DevmemFragmentKind.DmaBuf,
                piece.Offset,
                piece.LengthBytes,
                piece.Token,
                piece.BindingId);
        }

        _copied += copied;
        _byToken += bytes - copied;
        result = new ReceiveResult(bytes, copied, count);
        return Errno.Success;
    }

    /// <inheritdoc/>
    public async ValueTask<ReceiveResult> ReadAsync(
        Memory<byte> linear, Memory<DevmemFragment> fragments, CancellationToken cancellation = default)
    {
        while (true)
        {
            Errno errno = TryRead(linear.Span, fragments.Span, out ReceiveResult result);
            if (errno != Errno.EAGAIN)
            {
                errno.ThrowIfFailed($"read from {Peer}");
                return result;
            }

            await WaitForInputAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public int ReturnTokens(ReadOnlySpan<TokenRange> ranges)
    {
        Span<DevmemTokens> tokens = stackalloc DevmemTokens[DevmemReceiver.RangesMax + 1];
        int count = Math.Min(ranges.Length, tokens.Length); // one too many is the kernel's to refuse
        for (int i = 0; i < count; i++)
        {
            tokens[i] = new DevmemTokens(ranges[i].Start, ranges[i].Count);
        }

        DevmemReceiver.DontNeed(_socket, tokens[..count], out int freed).ThrowIfFailed($"return tokens of {Peer}");
        return freed;
    }

    /// <inheritdoc/>
    public (long ByToken, long Copied) GetReceived() => (_byToken, _copied);

    /// <inheritdoc/>
    public async ValueTask WriteAsync(ReadOnlyMemory<byte> bytes, CancellationToken cancellation = default)
    {
        try
        {
            while (!bytes.IsEmpty)
            {
                int sent = await _socket.SendAsync(bytes, SocketFlags.None, cancellation).ConfigureAwait(false);
                bytes = bytes[sent..];
            }
        }
        catch (SocketException e)
        {
            throw ErrnoMap.ToException(e, $"send to {Peer}");
        }
    }

    /// <inheritdoc/>
    public void Shutdown()
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException e)
        {
            throw ErrnoMap.ToException(e, $"send to {Peer}");
        }
    }

    /// <inheritdoc/>
    public void Abort() => _socket.Close(timeout: 0); // SO_LINGER of 0 seconds: a reset

    /// <summary>
    /// Closes: the kernel takes every token back, and resets the peer when there is unread data. Twice is fine.
    /// </summary>
    public ValueTask DisposeAsync()
    {
        _socket.Dispose();
        return ValueTask.CompletedTask;
    }

    private async ValueTask WaitForInputAsync(CancellationToken cancellation)
    {
        try
        {
            // Of no bytes: only waits. It looks at the first byte, which it cannot where that is in a dma-buf.
            await _socket.ReceiveAsync(Memory<byte>.Empty, SocketFlags.None, cancellation).ConfigureAwait(false);
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.Fault)
        {
            return;
        }
        catch (SocketException e)
        {
            throw ErrnoMap.ToException(e, $"read from {Peer}");
        }
    }
}
