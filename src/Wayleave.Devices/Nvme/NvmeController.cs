using Wayleave.Core;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

// Who runs what. Registers and doorbells: anybody, any time, no lock; a write stores a number and rings. Step: the
// holder of the controller's token, who holds no host lock. The medium: whoever took a request, on any thread. All
// control state of a command belongs to the token.
//
//   disabled --CC.EN=1--> ready --CC.EN=0--> disabled
//                           |--queue memory does not answer--> failed (CSTS.CFS) --CC.EN=0--> disabled
//
// Once CSTS.RDY is 0, or the completion of a command is posted, no DMA happens for it: that is what a revoke relies on.
// Neither waits for the medium, which may never answer: it has a buffer of the drive's own, and that one stays with it.

/// <summary>
/// An NVMe controller (NVM Express Base 2.0): queues in memory that it reaches by DMA, PRP and SGL, namespaces, and a
/// controller memory buffer that peers may use. It moves bytes between memory and buffers of its own, in steps of at
/// most 64 KiB; what moves them to the medium is whoever takes its media requests.
/// </summary>
public sealed class NvmeController
{
    /// <summary>The number of the BAR of the registers.</summary>
    public const int RegisterBar = 0;

    /// <summary>The number of the BAR of the controller memory buffer.</summary>
    public const int MemoryBufferBar = 2;

    private const int RegisterBytes = 16 * 1024;

    private readonly NvmeRequest[] _requests;
    private readonly Queue<NvmeMediaRequest> _media = new(); // token
    private readonly NvmeSubmissionQueue?[] _submissions;
    private readonly NvmeCompletionQueue?[] _completions;
    private readonly NvmeRegisterFile _registers;
    private readonly NvmeAdmin _admin;
    private readonly NvmeIo _io;
    private readonly NvmeMover _mover;
    private NvmeNamespace[] _namespaces = [];
    private int _nextRequest; // token: whose turn it is
    private int _nextQueue;
    private int _token;
    private int _doorbell;

    /// <summary>Host lock held by the caller.</summary>
    /// <param name="fabric">What it reaches memory through; the function is plugged in if it is not.</param>
    /// <param name="function">The controller's function.</param>
    /// <param name="options">Copied.</param>
    /// <param name="buffers">
    /// The drive's own memory, aligned to 4096 bytes: <see cref="NvmeControllerOptions.TransferBytesMax"/> for each
    /// request.
    /// </param>
    /// <param name="memoryBuffer">The controller memory buffer, a power of two of pages; empty for none.</param>
    public NvmeController(
        PciFabric fabric,
        PciFunction function,
        NvmeControllerOptions options,
        Memory<byte> buffers,
        Memory<byte> memoryBuffer)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        (Function, Options) = (function, options);
        if (buffers.Length < options.RequestsMax * NvmeControllerOptions.TransferBytesMax)
        {
            string message = $"{buffers.Length} bytes are not {options.RequestsMax} buffers";
            throw new ArgumentException(message, nameof(buffers));
        }

        fabric.Plug(function);
        if (function.Bars[RegisterBar] is null)
        {
            fabric.AddBar(function, RegisterBar, PciBarKind.Memory, RegisterBytes);
        }

        if (memoryBuffer.Length > 0)
        {
            PciBar bar = function.Bars[MemoryBufferBar]
                ?? fabric.AddBar(function, MemoryBufferBar, PciBarKind.Memory, (ulong)memoryBuffer.Length);
            fabric.AddWindow(memoryBuffer, bar, 0);
        }

        Port = new DmaPort(function, isPermanent: true);
        _submissions = new NvmeSubmissionQueue?[options.QueuesMax + 1];
        _completions = new NvmeCompletionQueue?[options.QueuesMax + 1];
        _requests = new NvmeRequest[options.RequestsMax];
        for (int i = 0; i < _requests.Length; i++)
        {
            int offset = i * NvmeControllerOptions.TransferBytesMax;
            _requests[i] = new NvmeRequest(this, buffers.Slice(offset, NvmeControllerOptions.TransferBytesMax));
        }

        _registers = new NvmeRegisterFile(options, memoryBuffer.Length / 4096);
        _admin = new NvmeAdmin(this);
        _io = new NvmeIo(this);
        _mover = new NvmeMover(this, _io);
    }

    public PciFunction Function { get; }

    public NvmeControllerOptions Options { get; }

    /// <summary>The controller's way to memory, with its byte counters.</summary>
    public DmaPort Port { get; }

    /// <summary>
    /// Called without any lock, on any thread, when there may be work: sets a flag or wakes a thread, and returns. Set
    /// by the edge before the controller is enabled.
    /// </summary>
    public Action? WorkAvailable { get; set; }

    /// <summary>
    /// Called by the holder of the token, without a lock, when a completion was posted to a queue with interrupts; the
    /// argument is the vector.
    /// </summary>
    public Action<int>? Interrupt { get; set; }

    /// <summary>Doorbell values that no queue has; each is ignored.</summary>
    public long InvalidDoorbells { get; private set; }

    /// <summary>Commands completed with success and without.</summary>
    public long Completed { get; private set; }

    public long Failed { get; private set; }

    public IReadOnlyList<NvmeNamespace> Namespaces => Volatile.Read(ref _namespaces);

    internal NvmeSubmissionQueue?[] Submissions => _submissions;

    internal NvmeCompletionQueue?[] Completions => _completions;

    internal IReadOnlyList<NvmeRequest> Requests => _requests;

    /// <summary>
    /// Offers a namespace, or another in place of the one with its number. Commands under way keep the one they began
    /// with. Host lock held by the caller.
    /// </summary>
    public void Attach(NvmeNamespace @namespace)
    {
        ArgumentNullException.ThrowIfNull(@namespace);
        if (@namespace.Id == 0 || @namespace.BlockShift is not (9 or 12) || @namespace.BlockCount == 0)
        {
            throw new ArgumentException($"{@namespace} is no namespace", nameof(@namespace));
        }

        NvmeNamespace[] others = [.. _namespaces.Where(n => n.Id != @namespace.Id)];
        Volatile.Write(ref _namespaces, [.. others.Append(@namespace).OrderBy(n => n.Id)]);
    }

    /// <summary>
    /// Takes a namespace away: commands that come later end with an error. Host lock held by the caller.
    /// </summary>
    public void Detach(uint id) => Volatile.Write(ref _namespaces, [.. _namespaces.Where(n => n.Id != id)]);

    /// <summary>As a controller may (NVMe 2.0, 5.1): no Abort finds its command. For tests.</summary>
    internal bool IgnoresAborts { get; set; }

    /// <summary>Reads 4 or 8 bytes of a register. Any thread. What is not there reads as zero.</summary>
    public ulong ReadRegister(int offset) => _registers.Read(offset);

    /// <summary>Writes a register or doorbell. Any thread. What cannot be written stays as it is.</summary>
    public void WriteRegister(int offset, ulong value)
    {
        _registers.Write(offset, value);
        RingInternally();
    }

    /// <summary>Takes the controller's token; false when another thread drives it. Host lock not held.</summary>
    public bool TryEnter()
    {
        Interleave.Point("nvme: enter");
        return Interlocked.CompareExchange(ref _token, 1, 0) == 0;
    }

    /// <summary>Gives the token back; see <see cref="Drive"/> for who looks again.</summary>
    public void Exit()
    {
        Interleave.Point("nvme: exit");
        Interlocked.Exchange(ref _token, 0);
    }

    /// <summary>
    /// Runs up to <paramref name="stepsMax"/> steps if nobody else drives the controller, then hands its media requests
    /// to <paramref name="media"/>. Leaves nothing ready behind unless the limit says so. Callable by any thread that
    /// does not hold the host lock.
    /// </summary>
    /// <returns>How many steps did something.</returns>
    public int Drive(int stepsMax, Action<NvmeMediaRequest> media)
    {
        ArgumentNullException.ThrowIfNull(media);
        int steps = 0;
        do
        {
            if (!TryEnter())
            {
                return steps;
            }

            Interlocked.Exchange(ref _doorbell, 0);
            while (steps < stepsMax && Step())
            {
                steps++;
                while (TryTakeMediaRequest(out NvmeMediaRequest? request))
                {
                    media(request!);
                }
            }

            Exit();
            Interleave.Point("nvme: look again");
        }
        while (steps < stepsMax && Volatile.Read(ref _doorbell) != 0);
        return steps;
    }

    /// <summary>
    /// Does one thing: follows the configuration register, copies one block, posts one completion, or fetches one
    /// command. Token held by the caller; host lock not held.
    /// </summary>
    /// <returns>False when there is nothing to do.</returns>
    public bool Step()
    {
        if (Volatile.Read(ref _token) == 0)
        {
            throw new InvalidOperationException("the controller's token is not held: call TryEnter first");
        }

        if (FollowConfiguration())
        {
            return true;
        }

        if ((_registers.Status & (NvmeRegister.Ready | NvmeRegister.Fatal)) != NvmeRegister.Ready)
        {
            return false;
        }

        // Before any block is copied: an abort that waits behind the copy would stop nothing.
        if (TryFetch(_submissions[0]!))
        {
            return true;
        }

        for (int i = 0; i < _requests.Length; i++)
        {
            NvmeRequest request = _requests[_nextRequest];
            _nextRequest = _nextRequest + 1 == _requests.Length ? 0 : _nextRequest + 1;
            if (request.State != NvmeRequestState.Free && Advance(request))
            {
                return true;
            }
        }

        return Fetch();
    }

    /// <summary>A request for the medium that nobody has taken. Token held by the caller.</summary>
    public bool TryTakeMediaRequest(out NvmeMediaRequest? request) => _media.TryDequeue(out request);

    internal void RingInternally()
    {
        Interleave.Point("nvme: doorbell");
        Interlocked.Exchange(ref _doorbell, 1);
        WorkAvailable?.Invoke();
    }

    internal void Submit(NvmeMediaRequest request) => _media.Enqueue(request);

    internal NvmeNamespace? FindNamespace(uint id) => Array.Find(Volatile.Read(ref _namespaces), n => n.Id == id);

    internal void ResetDoorbells(int queue, bool isSubmission) =>
        _registers.SetDoorbell(queue, isSubmission, 0);

    private bool FollowConfiguration()
    {
        uint configuration = _registers.Configuration;
        bool isEnabled = (configuration & NvmeRegister.Enable) != 0;
        if (isEnabled && _registers.Status == 0)
        {
            return Enable();
        }

        if (!isEnabled && _registers.Status != 0)
        {
            return Disable();
        }

        if ((configuration & NvmeRegister.ShutdownMask) != 0 && (_registers.Status & NvmeRegister.ShutdownComplete) == 0
            && (_registers.Status & NvmeRegister.Ready) != 0
            && Array.TrueForAll(_requests, IsFree))
        {
            _registers.Status = _registers.Status | NvmeRegister.ShutdownComplete;
            return true;
        }

        return false;
    }

    private bool Enable()
    {
        uint attributes = _registers.AdminAttributes;
        (int submission, int completion) = ((int)(attributes & 0xFFF) + 1, (int)((attributes >> 16) & 0xFFF) + 1);
        (ulong sq, ulong cq) = (_registers.AdminSubmission, _registers.AdminCompletion);
        uint sizes = (_registers.Configuration >> 7) & 0xF; // MPS: 2^(12 + n)
        if (submission < 2 || completion < 2 || sq % 4096 != 0 || cq % 4096 != 0 || sizes != 0)
        {
            _registers.Status = NvmeRegister.Fatal;
            return true;
        }

        _completions[0] = new NvmeCompletionQueue(0, new DeviceAddress(cq), completion, true, 0) { Users = 1 };
        _submissions[0] = new NvmeSubmissionQueue(0, new DeviceAddress(sq), submission, _completions[0]!);
        _registers.Status = NvmeRegister.Ready;
        return true;
    }

    private bool Disable()
    {
        foreach (NvmeRequest request in _requests)
        {
            request.Release(); // a buffer that the medium has stays the medium's
        }

        _admin.Reset();
        Array.Clear(_submissions);
        Array.Clear(_completions);
        _registers.ClearDoorbells();
        _registers.Status = 0;
        return true;
    }

    private static bool IsFree(NvmeRequest request) => request.State == NvmeRequestState.Free;

    private bool TryPost(NvmeRequest request)
    {
        NvmeCompletionQueue queue = request.Queue.Completions;
        if (!_admin.MayPost(request) || !queue.HasRoom(_registers.Head(queue.Id)))
        {
            return false;
        }

        NvmeCompletion completion = new()
        {
            Result = request.Result,
            SubmissionHead = (ushort)request.Queue.Head,
            SubmissionQueue = (ushort)request.Queue.Id,
            CommandId = request.Command.CommandId,
            Phase = queue.Phase,
            Status = request.Status,
        };
        if (Port.TryWrite(queue.TailAddress, NvmeCompletion.SizeBytes, out Span<byte> entry) != Errno.Success
            || entry.Length < NvmeCompletion.SizeBytes)
        {
            _registers.Status = _registers.Status | NvmeRegister.Fatal;
            return true;
        }

        completion.WriteBody(entry);
        Interlocked.MemoryBarrier();
        completion.WritePhase(entry);
        queue.Advance();
        request.Queue.Outstanding--;
        request.Release();
        (Completed, Failed) = request.Status == NvmeStatus.Success ? (Completed + 1, Failed) : (Completed, Failed + 1);
        if (queue.Interrupts && !_registers.IsMasked(queue.Vector))
        {
            Interrupt?.Invoke(queue.Vector);
        }

        return true;
    }

    // What moves bytes or waits for the medium is the mover's; the end of a command is the controller's.
    private bool Advance(NvmeRequest request) => request.State switch
    {
        NvmeRequestState.Done => TryPost(request),
        _ => _mover.Advance(request),
    };

    private bool Fetch()
    {
        for (int i = 0; i < _submissions.Length; i++)
        {
            NvmeSubmissionQueue? queue = _submissions[_nextQueue];
            _nextQueue = _nextQueue + 1 == _submissions.Length ? 0 : _nextQueue + 1;
            if (queue is not null && TryFetch(queue))
            {
                return true;
            }
        }

        return false;
    }

    private bool TryFetch(NvmeSubmissionQueue queue)
    {
        int tail = _registers.Tail(queue.Id);
        if (queue.IsDeleted || tail == queue.Head)
        {
            return false;
        }

        if (tail >= queue.Entries)
        {
            InvalidDoorbells++;
            _registers.SetDoorbell(queue.Id, isSubmission: true, queue.Head);
            return false;
        }

        // The last free request is for the admin queue: a drive that is busy can still be told to abort.
        int index = Array.FindIndex(_requests, IsFree);
        if (index < 0 || (queue.Id != 0 && Array.FindIndex(_requests, index + 1, IsFree) < 0))
        {
            return false;
        }

        Begin(_requests[index], queue);
        return true;
    }

    private void Begin(NvmeRequest request, NvmeSubmissionQueue queue)
    {
        if (Port.TryRead(queue.HeadAddress, NvmeCommand.SizeBytes, out ReadOnlySpan<byte> entry) != Errno.Success
            || entry.Length < NvmeCommand.SizeBytes)
        {
            _registers.Status = _registers.Status | NvmeRegister.Fatal;
            return;
        }

        NvmeCommand command = NvmeCommand.Read(entry);
        queue.Advance();
        bool isConflict = Array.Exists(
            _requests,
            r => r.IsOpen && r.Queue == queue && r.Command.CommandId == command.CommandId);
        request.Begin(command, queue);
        if (isConflict)
        {
            request.End(NvmeStatus.CommandIdConflict);
        }
        else if (queue.Id == 0)
        {
            _admin.Begin(request);
        }
        else
        {
            _io.Begin(request);
        }
    }
}
