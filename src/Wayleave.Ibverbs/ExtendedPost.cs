using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Ibverbs;

// ibv_wr_post(3). A request is begun by its builder (wr_send, wr_rdma_write, ...), which takes wr_id and wr_flags from
// the structure, completed by its setters, and goes into the chain when the next builder or wr_complete comes. The
// first error is kept: wr_complete returns it, and nothing of the chain is posted. All by the thread that began. What
// comes without wr_start is refused: by wr_complete with EINVAL, the others have no result.

/// <summary>The requests between <c>wr_start</c> and <c>wr_complete</c> of one queue pair.</summary>
internal sealed class ExtendedPost(VerbsQueuePair pair)
{
    private readonly SendChain _chain = new(pair.Pair);
    private readonly Sge[] _pieces = new Sge[Devices.Rdma.RdmaDevice.MaxSge];
    private readonly byte[] _inline = new byte[WorkLists.InlineBytesMax];
    private SendWorkRequest _request;
    private (MemoryWindow Window, WindowBind Bind, uint Key)? _bind;
    private Errno _errno;
    private int _pieceCount;
    private int _inlineLength;
    private bool _isInline;
    private bool _isOpen;
    private bool _isStarted;

    /// <summary><c>wr_start</c>.</summary>
    public void Start()
    {
        _chain.Begin();
        (_errno, _isOpen, _isStarted) = (Errno.Success, false, true);
    }

    /// <summary>A builder: ends the request before, and begins this one.</summary>
    public void Begin(in SendWorkRequest request)
    {
        Finish();
        (_request, _bind, _pieceCount, _inlineLength, _isInline, _isOpen) = (request, null, 0, 0, false, _isStarted);
    }

    /// <summary><c>wr_bind_mw</c>.</summary>
    public void BeginBind(in SendWorkRequest request, MemoryWindow window, WindowBind bind, uint key)
    {
        Begin(request);
        _bind = (window, bind, key);
    }

    /// <summary><c>wr_set_sge</c> and <c>wr_set_sge_list</c>.</summary>
    public void SetPieces(ReadOnlySpan<Sge> pieces)
    {
        if (pieces.Length > _pieces.Length)
        {
            Fail(Errno.EINVAL);
            return;
        }

        pieces.CopyTo(_pieces);
        _pieceCount = pieces.Length;
    }

    /// <summary><c>wr_set_inline_data</c> and, piece by piece, <c>wr_set_inline_data_list</c>.</summary>
    public void AppendInline(ReadOnlySpan<byte> data)
    {
        _isInline = true;
        if (data.Length > _inline.Length - _inlineLength)
        {
            Fail(Errno.EINVAL);
            return;
        }

        data.CopyTo(_inline.AsSpan(_inlineLength));
        _inlineLength += data.Length;
    }

    /// <summary><c>wr_set_ud_addr</c>.</summary>
    public void SetAddress(AddressHandle handle, uint number, uint key) =>
        _request = _request with { AddressHandle = handle, RemoteQpNumber = number, RemoteQKey = key };

    /// <summary>Something in the request cannot be: the chain ends with that.</summary>
    public void Fail(Errno errno) => _errno = _errno == Errno.Success ? errno : _errno;

    /// <summary><c>wr_complete</c>.</summary>
    public Errno Complete()
    {
        if (!_isStarted)
        {
            return Errno.EINVAL;
        }

        Finish();
        _isStarted = false;
        if (_errno != Errno.Success)
        {
            _chain.Abort();
            return _errno;
        }

        _chain.End();
        return Errno.Success;
    }

    /// <summary><c>wr_abort</c>.</summary>
    public void Abort()
    {
        if (_isStarted)
        {
            (_isOpen, _isStarted) = (false, false);
            _chain.Abort();
        }
    }

    private void Finish()
    {
        if (!_isOpen || _errno != Errno.Success)
        {
            return;
        }

        _isOpen = false;
        Fail(_bind is { } bind
            ? _chain.AddBind(bind.Window, bind.Bind, _request.WrId, _request.Flags, bind.Key)
            : _isInline
                ? _chain.AddInline(_request, _inline.AsSpan(0, _inlineLength))
                : _chain.Add(_request, _pieces.AsSpan(0, _pieceCount)));
    }
}
