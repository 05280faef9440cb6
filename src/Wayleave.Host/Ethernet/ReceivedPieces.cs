using System.Runtime.InteropServices;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>Bytes that have arrived, in the order of the stream.</summary>
/// <param name="IsDevice">In the bound memory; else in host memory.</param>
/// <param name="Offset">Of the first byte in the bound object, or in the linear buffer.</param>
/// <param name="LengthBytes">Positive.</param>
internal readonly record struct ReceivedPiece(bool IsDevice, ulong Offset, ulong LengthBytes);

/// <summary>
/// Reads a connection batch by batch and returns the tokens of a batch when it is done with. One user at a time; no
/// lock and no token is held between calls.
/// </summary>
/// <param name="connection">Owned by the caller.</param>
internal sealed class ReceivedPieces(IDevmemConnection connection)
{
    private const int FragmentsMax = TokenRange.RangesMax; // as many as one return takes
    private const int LinearBytes = 256 << 10;

    private readonly DevmemFragment[] _fragments = new DevmemFragment[FragmentsMax];
    private readonly TokenRange[] _tokens = new TokenRange[FragmentsMax];
    private readonly byte[] _linear = GC.AllocateUninitializedArray<byte>(LinearBytes);
    private readonly List<ReceivedPiece> _pieces = [];
    private int _tokenCount;

    /// <summary>Of the present batch, and of them what nobody has taken.</summary>
    public List<ReceivedPiece> Pieces => _pieces;

    /// <summary>Where linear pieces are.</summary>
    public ReadOnlyMemory<byte> Linear => _linear;

    /// <summary>Tokens returned so far.</summary>
    public long TokensReturned { get; private set; }

    /// <summary>The next batch, once that before was returned.</summary>
    /// <returns>False at the end of the stream.</returns>
    /// <exception cref="WayleaveException">As <see cref="IDevmemConnection.ReadAsync"/>.</exception>
    public async ValueTask<bool> ReadAsync(CancellationToken cancellation)
    {
        _pieces.Clear();
        ReceiveResult result = await connection.ReadAsync(_linear, _fragments, cancellation).ConfigureAwait(false);
        if (result.Bytes == 0)
        {
            return false;
        }

        // Bytes of a queue that is bound to nothing come without a description.
        if (result.Fragments == 0)
        {
            _pieces.Add(new ReceivedPiece(IsDevice: false, 0, (ulong)result.LinearBytes));
        }

        ulong at = 0;
        foreach (DevmemFragment fragment in _fragments.AsSpan(0, result.Fragments))
        {
            if (fragment.Token == 0)
            {
                _pieces.Add(new ReceivedPiece(IsDevice: false, at, fragment.LengthBytes));
                at += fragment.LengthBytes;
                continue;
            }

            _tokens[_tokenCount++] = new TokenRange(fragment.Token, 1);
            ReceivedPiece piece = new(IsDevice: true, fragment.Offset, fragment.LengthBytes);
            if (_pieces.Count > 0 && _pieces[^1] is { IsDevice: true } last
                && last.Offset + last.LengthBytes == piece.Offset)
            {
                _pieces[^1] = last with { LengthBytes = last.LengthBytes + piece.LengthBytes };
                continue;
            }

            _pieces.Add(piece);
        }

        return true;
    }

    /// <summary>The batch is done with: its chunks may be written again at once.</summary>
    /// <exception cref="WayleaveException">ENODEV: the memory was taken back.</exception>
    public void Return()
    {
        if (_tokenCount > 0)
        {
            ReadOnlySpan<TokenRange> tokens = _tokens.AsSpan(0, _tokenCount);
            _tokenCount = 0;
            TokensReturned += connection.ReturnTokens(tokens);
        }
    }

    /// <summary>Takes bytes off the front of the batch.</summary>
    public void Skip(ulong lengthBytes)
    {
        int whole = 0;
        while (whole < _pieces.Count && _pieces[whole].LengthBytes <= lengthBytes)
        {
            lengthBytes -= _pieces[whole++].LengthBytes;
        }

        _pieces.RemoveRange(0, whole);
        if (lengthBytes > 0)
        {
            ref ReceivedPiece first = ref CollectionsMarshal.AsSpan(_pieces)[0];
            first = first with
            {
                Offset = first.Offset + lengthBytes,
                LengthBytes = first.LengthBytes - lengthBytes,
            };
        }
    }

    /// <summary>Forgets what goes beyond so many bytes.</summary>
    public void Truncate(ulong lengthBytes)
    {
        for (int i = 0; i < _pieces.Count; i++)
        {
            if (_pieces[i].LengthBytes <= lengthBytes)
            {
                lengthBytes -= _pieces[i].LengthBytes;
                continue;
            }

            if (lengthBytes > 0)
            {
                _pieces[i] = _pieces[i] with { LengthBytes = lengthBytes };
                i++;
            }

            _pieces.RemoveRange(i, _pieces.Count - i);
        }
    }

    /// <summary>Shows the bytes of the batch, where they are, in order.</summary>
    /// <param name="objects">Of the host.</param>
    /// <param name="bound">What device pieces are in.</param>
    /// <param name="handler">Sees each piece of host and device memory alike.</param>
    /// <param name="cancellation">Ends it between two pieces.</param>
    /// <exception cref="WayleaveException">ENODEV: the memory was taken back.</exception>
    public async ValueTask VisitAsync(
        ObjectStore objects, DeviceObject bound, PieceHandler handler, CancellationToken cancellation)
    {
        List<(ulong Offset, ulong LengthBytes)> run = [];
        foreach (ReceivedPiece piece in _pieces)
        {
            if (piece.IsDevice)
            {
                run.Add((piece.Offset, piece.LengthBytes));
                continue;
            }

            await VisitRunAsync().ConfigureAwait(false);
            handler(piece.Offset, _linear.AsSpan((int)piece.Offset, (int)piece.LengthBytes));
        }

        await VisitRunAsync().ConfigureAwait(false);

        async ValueTask VisitRunAsync()
        {
            if (run.Count > 0)
            {
                await objects.ForEachRangeAsync(bound, run, handler, cancellation).ConfigureAwait(false);
                run.Clear();
            }
        }
    }
}
