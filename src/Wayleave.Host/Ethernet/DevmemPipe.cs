using System.IO.Pipelines;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>
/// A connection for code that wants host memory: a <see cref="PipeReader"/> of what it receives. Every byte is copied,
/// out of device memory too, and counted as staged; its chunk may be written again at once.
/// </summary>
/// <remarks>One reader; nobody else reads the connection meanwhile. No lock is held while it waits.</remarks>
public sealed class DevmemPipe : IAsyncDisposable
{
    private readonly StagingStream _stream;

    /// <param name="host">Counts what is staged.</param>
    /// <param name="connection">Not owned: who made it disposes it, after this.</param>
    /// <param name="bound">What its queue is bound to; null when it is bound to nothing.</param>
    /// <param name="options">Sizes of the reader's buffers; null for the defaults.</param>
    public DevmemPipe(
        WayleaveHost host, IDevmemConnection connection, DeviceObject? bound, StreamPipeReaderOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(connection);
        _stream = new StagingStream(host, connection, bound);
        Reader = PipeReader.Create(_stream, options);
    }

    /// <summary>
    /// The bytes in order. Completed at the end of what the peer sends; a read fails with the <see
    /// cref="WayleaveException"/> of <see cref="IDevmemConnection.ReadAsync"/>.
    /// </summary>
    public PipeReader Reader { get; }

    /// <summary>Bytes copied to host memory so far.</summary>
    public long StagedBytes => _stream.StagedBytes;

    /// <summary>Completes the reader. What was not read goes back with the connection. Twice is fine.</summary>
    public async ValueTask DisposeAsync()
    {
        await Reader.CompleteAsync().ConfigureAwait(false);
        await _stream.DisposeAsync().ConfigureAwait(false);
    }

    private sealed class StagingStream(WayleaveHost host, IDevmemConnection connection, DeviceObject? bound) : Stream
    {
        private readonly ReceivedPieces _pieces = new(connection);
        private long _stagedBytes;
        private bool _isAtEnd;

        public long StagedBytes => Interlocked.Read(ref _stagedBytes);

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => false;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override async ValueTask<int> ReadAsync(
            Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            while (_pieces.Pieces.Count == 0 && !_isAtEnd && buffer.Length > 0)
            {
                _pieces.Return();
                _isAtEnd = !await _pieces.ReadAsync(cancellationToken).ConfigureAwait(false);
            }

            int copied = 0;
            while (_pieces.Pieces.Count > 0 && copied < buffer.Length)
            {
                copied += await CopyAsync(buffer[copied..], cancellationToken).ConfigureAwait(false);
            }

            if (_pieces.Pieces.Count == 0)
            {
                _pieces.Return();
            }

            return copied;
        }

        public override Task<int> ReadAsync(
            byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
            ReadAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

        public override int Read(byte[] buffer, int offset, int count) =>
            throw new NotSupportedException("reading waits: ReadAsync");

        public override void Flush() => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        private async ValueTask<int> CopyAsync(Memory<byte> target, CancellationToken cancellation)
        {
            ReceivedPiece piece = _pieces.Pieces[0];
            int length = (int)Math.Min(piece.LengthBytes, (ulong)target.Length);
            if (!piece.IsDevice)
            {
                _pieces.Linear.Slice((int)piece.Offset, length).CopyTo(target);
            }
            else
            {
                DeviceObject source = bound
                    ?? throw new InvalidOperationException("the connection's queue is bound, and not said to what");
                await host.Objects.ForEachPieceAsync(
                    source,
                    piece.Offset,
                    (ulong)length,
                    (offset, bytes) => bytes.CopyTo(target.Span[(int)(offset - piece.Offset)..]),
                    cancellation).ConfigureAwait(false);
            }

            _pieces.Skip((ulong)length);
            Interlocked.Add(ref _stagedBytes, length);
            host.CountStaged((ulong)length);
            return length;
        }
    }
}
