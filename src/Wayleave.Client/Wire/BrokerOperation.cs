namespace Wayleave.Client.Wire;

/// <summary>What a program asks a broker for; docs/broker.md has each body.</summary>
public enum BrokerOperation : ushort
{
    /// <summary>First of all: which versions the program speaks, and its name.</summary>
    Hello = 1,

    /// <summary>A device by its name; answered by its number on this connection and its memory.</summary>
    OpenDevice = 2,

    /// <summary>Memory of an open device; answered by the buffer's number on this connection.</summary>
    Allocate = 3,

    /// <summary>A descriptor that stands for a buffer, for whoever gets it.</summary>
    Export = 4,

    /// <summary>The buffer that a descriptor stands for.</summary>
    Import = 5,

    /// <summary>A number is given back: of a buffer, a queue, a timeline, a registration, a queue pair.</summary>
    Close = 6,

    /// <summary>A descriptor of the buffer's own pages, to be mapped.</summary>
    Map = 7,

    /// <summary>The program has unmapped them, and closed the descriptor.</summary>
    Unmap = 8,

    /// <summary>A buffer's size, name and state.</summary>
    Describe = 9,

    /// <summary>Takes a buffer back from everybody; answered by the proof. For who allocated it.</summary>
    Revoke = 10,

    /// <summary>The proof of a buffer that was taken back.</summary>
    ReadProof = 11,

    /// <summary>A fence of what an access to a buffer has to wait for, as a descriptor.</summary>
    ExportFence = 12,

    /// <summary>Lets others who use a buffer wait for a fence.</summary>
    ImportFence = 13,

    /// <summary>What a fence is made of, and how it stands.</summary>
    DescribeFence = 14,

    /// <summary>A fence that signals when two have.</summary>
    MergeFences = 15,

    /// <summary>The copy engine of a GPU copies from one buffer to another; answered by a fence.</summary>
    Copy = 16,

    /// <summary>A queue of a GPU's compute engine or, from version 2 on, of the engine that is said.</summary>
    OpenQueue = 17,

    /// <summary>Lets commands on a GPU use a buffer.</summary>
    Bind = 18,

    /// <summary>Ends what <see cref="Bind"/> began; jobs that were submitted go on.</summary>
    Unbind = 19,

    /// <summary>Commands for a queue; answered by a fence.</summary>
    Submit = 20,

    /// <summary>Registers a buffer with an RDMA NIC; answered by the key.</summary>
    Register = 21,

    /// <summary>A queue pair of an RDMA NIC, in the protection domain of this connection.</summary>
    CreateQueuePair = 22,

    /// <summary>Connects a queue pair to its peer.</summary>
    ConnectQueuePair = 23,

    /// <summary>A timeline that the program drives by hand.</summary>
    OpenTimeline = 24,

    /// <summary>A fence for a value of such a timeline.</summary>
    MakeFence = 25,

    /// <summary>Goes on along such a timeline.</summary>
    Advance = 26,

    /// <summary>Queues a request of a queue pair.</summary>
    PostSend = 27,

    /// <summary>Queues a receive of a queue pair.</summary>
    PostReceive = 28,

    /// <summary>Completions of a queue pair; waits a little for the first.</summary>
    TakeCompletions = 29,

    /// <summary>Both <see cref="Import"/> and <see cref="Map"/>, in one message.</summary>
    ImportAndMap = 32,

    /// <summary>Rings in shared memory, for commands to a GPU and their completions.</summary>
    OpenRing = 33,

    /// <summary>Lets commands of a ring name a buffer; answered by the slot in its table.</summary>
    AttachToRing = 34,

    /// <summary>Ends what <see cref="AttachToRing"/> began.</summary>
    DetachFromRing = 35,

    /// <summary>Lets commands of a ring name a queue of an engine; answered by the slot in its table.</summary>
    AttachQueueToRing = 36,

    /// <summary>Ends what <see cref="AttachQueueToRing"/> began; jobs go on.</summary>
    DetachQueueFromRing = 37,

    /// <summary>A fence of a command of a ring that is under way, as a descriptor.</summary>
    ExportRingFence = 38,

    /// <summary>A hint for who works on a fence: when somebody would like it to be done.</summary>
    SetDeadline = 39,

    /// <summary>
    /// As <see cref="ImportAndMap"/>, by who has the pages: they came with the descriptor. Answered by what names them.
    /// </summary>
    ImportWithPages = 40,

    /// <summary>
    /// Begins to use a buffer by a device of the program's own, which stops when told; answered by a number.
    /// </summary>
    Attach = 48,

    /// <summary>
    /// A descriptor of the pages where an attached buffer is now; waits for a move that is under way.
    /// </summary>
    MapAttachment = 49,

    /// <summary>The program reaches them no more: it has unmapped them, and closed the descriptor.</summary>
    Release = 50,

    /// <summary>
    /// From the host, unasked and with tag 0, between answers: an attachment has to stop, or has died.
    /// </summary>
    Invalidated = 51,
}
