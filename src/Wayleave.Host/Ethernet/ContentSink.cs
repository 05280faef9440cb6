using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>Takes the content of a stream, batch by batch, and says at the end what it was.</summary>
/// <param name="host">Counts what is staged.</param>
/// <param name="isStaged">What the queue is bound to is no device memory: its owner shows the NIC other.</param>
internal abstract class ContentSink(WayleaveHost host, bool isStaged) : IAsyncDisposable
{
    /// <summary>Bytes taken.</summary>
    public ulong Bytes { get; private set; }

    /// <summary>Of them, those that came in host memory.</summary>
    public ulong LinearBytes { get; private set; }

    /// <summary>Of them, those that passed through host memory on their way to where they are.</summary>
    public ulong StagedBytes { get; private set; }

    /// <summary>Takes a batch; when it returns, the chunks may be written again.</summary>
    /// <exception cref="WayleaveException">The memory was taken back, or the copy engine failed.</exception>
    public async ValueTask TakeAsync(ReceivedPieces batch, CancellationToken cancellation)
    {
        await KeepAsync(batch, Bytes, cancellation).ConfigureAwait(false);
        foreach (ReceivedPiece piece in batch.Pieces)
        {
            Bytes += piece.LengthBytes;
            LinearBytes += piece.IsDevice ? 0 : piece.LengthBytes;
            if (!piece.IsDevice || isStaged)
            {
                StagedBytes += piece.LengthBytes;
                host.CountStaged(piece.LengthBytes);
            }
        }
    }

    /// <summary>Everything has come.</summary>
    /// <returns>The SHA-256 of the content, lower-case hexadecimal.</returns>
    public abstract Task<string> CompleteAsync(CancellationToken cancellation);

    public abstract ValueTask DisposeAsync();

    private protected abstract ValueTask KeepAsync(
        ReceivedPieces batch, ulong position, CancellationToken cancellation);
}

/// <summary>Hashes the content where it lies, and keeps nothing of it.</summary>
/// <param name="host">Of the reception.</param>
/// <param name="reception">Where pieces are.</param>
internal sealed class HashSink(WayleaveHost host, NetReceive reception) : ContentSink(host, reception.IsStaged)
{
    private readonly ObjectStore _objects = host.Objects;
    private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

    public override Task<string> CompleteAsync(CancellationToken cancellation) =>
        Task.FromResult(Convert.ToHexStringLower(_hash.GetHashAndReset()));

    public override ValueTask DisposeAsync()
    {
        _hash.Dispose();
        return ValueTask.CompletedTask;
    }

    private protected override ValueTask KeepAsync(
        ReceivedPieces batch, ulong position, CancellationToken cancellation) =>
        batch.VisitAsync(
            _objects, reception.Buffer, (_, bytes) => _hash.AppendData(bytes), cancellation);
}

/// <summary>
/// Makes an object of the content: the GPU's copy engine puts each piece into its place. What came in host memory is
/// staged, and counted.
/// </summary>
internal sealed class ObjectSink : ContentSink
{
    private readonly WayleaveHost _host;
    private readonly DeviceObject _target;
    private readonly DeviceGather _gather;
    private bool _isDetached;

    private ObjectSink(WayleaveHost host, bool isStaged, DeviceObject target, DeviceGather gather)
        : base(host, isStaged) => (_host, _target, _gather) = (host, target, gather);

    /// <summary>What the content becomes.</summary>
    public DeviceObject Target => _target;

    /// <summary>Takes memory for an object that nobody finds before it is complete.</summary>
    /// <exception cref="WayleaveException">
    /// EOPNOTSUPP: the device has no copy engine. Or no room, or a bad name.
    /// </exception>
    public static async Task<ObjectSink> OpenAsync(
        WayleaveHost host, NetReceive reception, string name, ulong sizeBytes, CancellationToken cancellation)
    {
        DeviceObject bound = reception.Buffer;
        if (bound.Owner is not GpuHandle gpu)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                $"make {bound.Device}/{name} of what is received",
                $"{bound.Device} has no copy engine to put it together",
                "receive into a GPU, or without a name");
        }

        DeviceObject target = await host.Objects
            .CreateAsync(bound.Device, name, sizeBytes, storage: null, cancellation).ConfigureAwait(false);
        try
        {
            DeviceGather gather = await DeviceGather
                .OpenAsync(host.Context, gpu, bound, target).ConfigureAwait(false);
            return new ObjectSink(host, reception.IsStaged, target, gather);
        }
        catch
        {
            await host.Objects.AbortAsync(target, "its reception failed").ConfigureAwait(false);
            throw;
        }
    }

    public override async Task<string> CompleteAsync(CancellationToken cancellation)
    {
        await DetachAsync().ConfigureAwait(false);
        string sha256 = await _host.Objects.Sha256Async(_target, cancellation).ConfigureAwait(false);
        await _host.Objects.CommitAsync(_target, sha256).ConfigureAwait(false);
        return sha256;
    }

    public override async ValueTask DisposeAsync()
    {
        await DetachAsync().ConfigureAwait(false);
        await _host.Objects.AbortAsync(_target, "its sender left before the end").ConfigureAwait(false);
    }

    private protected override async ValueTask KeepAsync(
        ReceivedPieces batch, ulong position, CancellationToken cancellation)
    {
        List<GatherCopy> copies = [];
        foreach (ReceivedPiece piece in batch.Pieces)
        {
            if (piece.IsDevice)
            {
                copies.Add(new GatherCopy(piece.Offset, position, piece.LengthBytes));
            }
            else
            {
                await StageAsync(batch, piece, position, cancellation).ConfigureAwait(false);
            }

            position += piece.LengthBytes;
        }

        await _gather.CopyAsync(copies).ConfigureAwait(false);
    }

    private async ValueTask StageAsync(
        ReceivedPieces batch, ReceivedPiece piece, ulong position, CancellationToken cancellation)
    {
        ReadOnlyMemory<byte> bytes = batch.Linear.Slice((int)piece.Offset, (int)piece.LengthBytes);
        await _host.Objects.ForEachPieceAsync(
            _target,
            position,
            piece.LengthBytes,
            (offset, target) => bytes.Span.Slice((int)(offset - position), target.Length).CopyTo(target),
            cancellation).ConfigureAwait(false);
    }

    private async ValueTask DetachAsync()
    {
        if (!_isDetached)
        {
            _isDetached = true;
            await _gather.DisposeAsync().ConfigureAwait(false);
        }
    }
}
